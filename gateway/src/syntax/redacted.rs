//! The text of a configuration without the secrets that it contains, so that it can be shown.
//!
//! A finding shows its line, and reports go to logs. So the value of each key with the name of a secret is replaced,
//! character by character, which keeps all places. Variables stay, since the text does not contain their values.
//! An API key that `millgate key new` made is replaced wherever it is, because its prefix shows what it is.

/// `text` with stars for the values of secret keys.
pub(super) fn redacted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        push_line(&mut out, line);
    }
    without_keys(out)
}

/// `text` with stars for each word that begins like an API key of `millgate key new`.
pub(crate) fn without_keys(text: String) -> String {
    // Messages may have changed the case of what they quote. ASCII case does not change offsets.
    let lower = text.to_ascii_lowercase();
    let Some(mut at) = lower.find(KEY_PREFIX) else { return text };
    let (mut out, mut rest) = (String::with_capacity(text.len()), 0);
    // RFC 6750 §2.1.
    let is_of_key = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
    loop {
        let word = &text[at..];
        let length = word.find(|c| !is_of_key(c)).unwrap_or(word.len());
        out.push_str(&text[rest..at]);
        out.extend(std::iter::repeat_n('*', length));
        rest = at + length;
        match lower[rest..].find(KEY_PREFIX) {
            Some(next) => at = rest + next,
            None => break,
        }
    }
    out.push_str(&text[rest..]);
    out
}

/// Adds a line without its secrets. Each part of the line is read once, so the time is linear in its length.
fn push_line(out: &mut String, line: &str) {
    let (mut rest, mut is_in_flow) = (line, false);
    while let Some(colon) = rest.find(':') {
        let (before, after) = rest.split_at(colon + 1);
        is_in_flow |= before.contains(['{', '[']);
        let value = after.trim_start_matches([' ', '\t']);
        let gap = &after[..after.len() - value.len()];
        out.push_str(before);
        out.push_str(gap);
        rest = value;
        let key = key_before(before);
        if gap.is_empty() || !names_a_secret(key.strip_suffix("_file").unwrap_or(key)) {
            continue;
        }
        // The loop goes on inside a list or a map.
        if value.starts_with(['{', '[']) {
            continue;
        }
        let (value, after) = value.split_at(value_length(value, is_in_flow));
        if is_secret(key, value) {
            out.extend(value.chars().map(|_| '*'));
        } else {
            out.push_str(value);
        }
        rest = after;
    }
    out.push_str(rest);
}

/// The key that ends at the colon.
fn key_before(text: &str) -> &str {
    let text = text.trim_end_matches(':').trim_end_matches(['"', '\'']);
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    &text[text.trim_end_matches(is_part).len()..]
}

/// Length in bytes of the value that begins here, with its quotes.
fn value_length(value: &str, is_in_flow: bool) -> usize {
    if let Some(quote) = value.chars().next().filter(|first| matches!(first, '"' | '\'')) {
        return value[1..].find(quote).map_or(value.trim_end().len(), |end| end + 2);
    }
    let end = if is_in_flow { value.find([',', '}', ']']).unwrap_or(value.len()) } else { value.len() };
    let value = &value[..end];
    value[..value.find(" #").unwrap_or(end)].trim_end().len()
}

fn names_a_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase().replace('-', "_");
    SECRET_NAMES.contains(&key.as_str()) || SECRET_ENDINGS.iter().any(|ending| key.ends_with(ending))
}

/// Whether the value of a key with the name of a secret, or of a secret's file, is a secret itself.
fn is_secret(key: &str, value: &str) -> bool {
    let text = value.trim_matches(['"', '\'']);
    // The value may be the secret instead of its file's name: names of files are shorter, or have an extension.
    let is_name = key.ends_with("_file") && (text.len() < SECRET_BYTES_MIN || text.contains('.'));
    // `cors.credentials` is a switch.
    let is_switch = matches!(text, "true" | "false" | "yes" | "no" | "on" | "off");
    !is_name
        && !is_switch
        && !text.is_empty()
        && !text.contains("${")
        && !text.starts_with(['|', '>', '&', '*', '!'])
}

const SECRET_ENDINGS: [&str; 10] = [
    "secret",
    "password",
    "passwd",
    "passphrase",
    "token",
    "api_key",
    "apikey",
    "private_key",
    "authorization",
    "credentials",
];
/// Whole names, since other fields end with these words.
const SECRET_NAMES: [&str; 3] = ["key", "keys", "api_keys"];
/// What keys of `millgate key new` begin with.
pub(crate) const KEY_PREFIX: &str = "mgk_";
/// Length of the shortest permitted secret.
const SECRET_BYTES_MIN: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_secret_keys_are_stars_and_nothing_moves() {
        for (line, shown) in [
            ("hs256_secret: abc def # why\n", "hs256_secret: ******* # why\n"),
            ("  {hs256_secret: \"a, b\", audience: api}", "  {hs256_secret: ******, audience: api}"),
            ("a: {token: x, b: y}", "a: {token: *, b: y}"),
            ("cors: {credentials: true, b: y}", "cors: {credentials: true, b: y}"),
            ("\"X-Api-Key\": 'é'", "\"X-Api-Key\": ***"),
            ("  set: {Authorization: Bearer x.y}", "  set: {Authorization: **********}"),
            ("token: \"${TOKEN}\"", "token: \"${TOKEN}\""),
            ("token_file: secrets/consul.token", "token_file: secrets/consul.token"),
            ("hs256_secret_file: dev.key", "hs256_secret_file: dev.key"),
            (
                "hs256_secret_file: 0123456789abcdef0123456789abcdef",
                "hs256_secret_file: ********************************",
            ),
            ("rate_limit: [5/m per claim:token, 3/s]", "rate_limit: [5/m per claim:token, 3/s]"),
            ("from: [query:access_token]", "from: [query:access_token]"),
            ("secret:", "secret:"),
            ("secret: \"open", "secret: *****"),
            ("path: /a", "path: /a"),
            ("api_keys: [{name: a, key: hunter2}]", "api_keys: [{name: a, key: *******}]"),
            ("keys: hunter2", "keys: *******"),
            ("api_keys_file: keys.yaml", "api_keys_file: keys.yaml"),
            ("api_keys_file: mgk_a-b_c", "api_keys_file: *********"),
            ("path: /x/mgk_aB9?MGK_c, mgk_d", "path: /x/*******?*****, *****"),
            ("cors: {allow_credentials: yes}", "cors: {allow_credentials: yes}"),
            ("cookie_key: a", "cookie_key: a"),
        ] {
            assert_eq!(redacted(line), shown, "{line}");
            assert_eq!(redacted(line).chars().count(), line.chars().count(), "{line}");
        }
    }
}
