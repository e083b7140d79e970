//! A strict reader of HTTP/1.1 (RFC 9112), written for the tests only. It refuses what a lenient parser forgives, so it
//! accepts only messages that a service can read in one way.

/// One message, a request or a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// The request line or the status line.
    pub(super) start: String,
    pub(super) body: Vec<u8>,
}

impl Message {
    /// The method of a request, or the version of a response.
    pub(super) fn first_word(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    /// The status of a response.
    pub(super) fn status(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }
}

/// The end of a sequence of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rest {
    /// The sequence ends with the end of a message.
    Nothing,
    /// It ends in the middle of a message, which is valid so far.
    Partial,
    /// It ends with bytes that are not a message.
    Malformed(String),
}

/// The requests at the beginning of `bytes`.
pub(super) fn requests(bytes: &[u8]) -> (Vec<Message>, Rest) {
    read_all(bytes, &|start| {
        let mut words = start.split(' ');
        let (method, target, version) = (words.next(), words.next(), words.next());
        let is_target =
            |target: &str| !target.is_empty() && target.bytes().all(|byte| byte.is_ascii_graphic());
        let is_right = method.is_some_and(|method| is_token(method.as_bytes()))
            && target.is_some_and(is_target)
            && version == Some("HTTP/1.1")
            && words.next().is_none();
        if is_right { Ok(Expected::Request) } else { Err(format!("request line {start:?}")) }
    })
}

/// The responses at the beginning of `bytes` to requests with these methods.
pub(super) fn responses(bytes: &[u8], methods: &[&str]) -> (Vec<Message>, Rest) {
    let next = std::cell::Cell::new(0);
    read_all(bytes, &|start| {
        let status = start.strip_prefix("HTTP/1.1 ").or_else(|| start.strip_prefix("HTTP/1.0 "));
        let status = status.and_then(|rest| rest.get(..3)).filter(|digits| is_digits(digits.as_bytes()));
        let status = status.ok_or_else(|| format!("status line {start:?}"))?;
        if status.starts_with('1') {
            return Ok(Expected::NoBody);
        }
        let method = methods.get(next.replace(next.get() + 1)).copied().unwrap_or_default();
        let has_none = method == "HEAD" || ["204", "304"].contains(&status);
        Ok(if has_none { Expected::NoBody } else { Expected::Response })
    })
}

/// The rule of RFC 9112 §6.3 that gives the length of a body.
enum Expected {
    Request,
    Response,
    NoBody,
}

fn read_all(bytes: &[u8], expect: &dyn Fn(&str) -> Result<Expected, String>) -> (Vec<Message>, Rest) {
    let (mut messages, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        match message(rest, expect) {
            Ok(Some((message, after))) => {
                messages.push(message);
                rest = after;
            }
            Ok(None) => return (messages, Rest::Partial),
            Err(why) => return (messages, Rest::Malformed(why)),
        }
    }
    (messages, Rest::Nothing)
}

/// `None`: the part is not complete.
type Read<'a, T> = Result<Option<(T, &'a [u8])>, String>;

fn message<'a>(bytes: &'a [u8], expect: &dyn Fn(&str) -> Result<Expected, String>) -> Read<'a, Message> {
    let Some((start, mut rest)) = line(bytes)? else { return Ok(None) };
    let start = std::str::from_utf8(start).map_err(|error| error.to_string())?.to_owned();
    let mut lengths = Vec::new();
    let mut codings = Vec::new();
    let expected = expect(&start)?;
    let mut hosts = 0;
    loop {
        let Some((field, after)) = line(rest)? else { return Ok(None) };
        rest = after;
        if field.is_empty() {
            break;
        }
        let colon = field.iter().position(|byte| *byte == b':').ok_or("a field without a colon")?;
        let (name, value) = (&field[..colon], field[colon + 1..].trim_ascii());
        if !is_token(name) {
            return Err(format!("field name {:?}", String::from_utf8_lossy(name)));
        }
        match name.to_ascii_lowercase().as_slice() {
            b"host" => hosts += 1,
            b"content-length" => lengths.push(value),
            b"transfer-encoding" => codings.push(value),
            _ => {}
        }
    }
    if matches!(expected, Expected::Request) && hosts != 1 {
        return Err(format!("{hosts} Host fields"));
    }
    let (is_chunked, length) = framing(&codings, &lengths)?;
    let (body, rest) = match (expected, is_chunked, length) {
        (Expected::NoBody, ..) | (Expected::Request, false, None) => (Vec::new(), rest),
        (_, true, _) => match chunks(rest)? {
            Some(read) => read,
            None => return Ok(None),
        },
        (_, false, Some(length)) => match rest.split_at_checked(length) {
            Some((body, rest)) => (body.to_vec(), rest),
            None => return Ok(None),
        },
        // The body ends with the connection.
        (Expected::Response, false, None) => (rest.to_vec(), &[][..]),
    };
    Ok(Some((Message { start, body }, rest)))
}

fn framing(codings: &[&[u8]], lengths: &[&[u8]]) -> Result<(bool, Option<usize>), String> {
    match (codings, lengths) {
        ([], []) => Ok((false, None)),
        ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") => Ok((true, None)),
        ([], [length]) if is_digits(length) && length.len() < 10 => {
            Ok((false, std::str::from_utf8(length).ok().and_then(|digits| digits.parse().ok())))
        }
        _ => Err(format!("framing by {} codings and {} lengths", codings.len(), lengths.len())),
    }
}

/// Reads a chunked body; extensions and trailers are refused.
fn chunks(mut bytes: &[u8]) -> Read<'_, Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let Some((size, rest)) = line(bytes)? else { return Ok(None) };
        let digits =
            std::str::from_utf8(size).ok().filter(|text| text.bytes().all(|c| c.is_ascii_hexdigit()));
        let size = digits.filter(|digits| (1..8).contains(&digits.len()));
        let size =
            size.and_then(|digits| usize::from_str_radix(digits, 16).ok()).ok_or("the size of a chunk")?;
        let Some((chunk, rest)) = rest.split_at_checked(size) else { return Ok(None) };
        body.extend_from_slice(chunk);
        let Some((end, rest)) = line(rest)? else { return Ok(None) };
        if !end.is_empty() {
            return Err("a chunk that is longer than its size, or a trailer".to_owned());
        }
        if size == 0 {
            return Ok(Some((body, rest)));
        }
        bytes = rest;
    }
}

/// Reads a line without its CRLF: visible ASCII, spaces, tabs and bytes beyond ASCII, without a CR or LF alone.
fn line(bytes: &[u8]) -> Read<'_, &[u8]> {
    let is_of_line = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
    let end = bytes.iter().position(|byte| !is_of_line(byte)).unwrap_or(bytes.len());
    let (line, rest) = bytes.split_at(end);
    match rest {
        [b'\r', b'\n', rest @ ..] => Ok(Some((line, rest))),
        [] | [b'\r'] => Ok(None),
        [other, ..] => Err(format!("the byte {other:#04x} in a line")),
    }
}

fn is_digits(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

/// Whether the text is a token (RFC 9110 §5.6.2).
fn is_token(text: &[u8]) -> bool {
    let is_of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(is_of_token)
}
