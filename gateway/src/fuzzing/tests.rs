//! Every target with a few hundred inputs, made of words of the language under test and of any bytes between them.

use proptest::{collection, prelude::*, sample, string};

/// Inputs that are nearly right, by a regular expression; or any of these words, one after another, with a byte of any value here
/// and there.
fn of(near: &'static str, words: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let near = string::string_regex(near).expect("an expression").prop_map(String::into_bytes);
    let word = sample::select(words).prop_map(|word| word.as_bytes().to_vec());
    let piece = prop_oneof![9 => word, 1 => any::<u8>().prop_map(|byte| vec![byte])];
    prop_oneof![near, collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())]
}

const PATH: &[&str] = &[
    "/", "/", "a", ".", "..", "%2e", "%2E", "%2f", "%5c", "%25", "%", "41", "%61", "%c3", "%a9", "%3b", ";",
    ";x", "//", "{", "|", "é", "%00", "?",
];
const AUTHORITY: &[&str] = &[
    "a", "B", "-", "_", ".", "..", "test", ":", ":80", ":443", ":0", "65536", "00080", "[::1]", "[", "]",
    "@", "1.2.3.4", "%41", " ",
];
const TAG: &[&str] = &[
    "GET ",
    "POST,GET ",
    "* ",
    "shop.test",
    "*.shop.test",
    "/",
    "/a",
    "/**",
    "/{id}",
    "/*",
    " ",
    " strip=/a",
    " add=/b",
    " host=a.b",
    " redirect=301,/x",
    " redirect=302,https://a.b{path}",
    " allow=10.0.0.0/8,ip:::1",
    " deny=192.0.2.1",
    " timeout=5s",
    " weight=0.05",
    " weight=1",
    " proto=https",
    " tlsskipverify=true",
    "$DC",
    "=",
    ",",
];
const TOKEN: &[&str] = &[
    // {"alg":"EdDSA"}, {"alg":"none"}, {"iss":"https://issuer.test","aud":"api","exp":1800000060}, {"iss":"a","iss":"b"}, {}
    "eyJhbGciOiJFZERTQSJ9",
    "eyJhbGciOiJub25lIn0",
    "eyJpc3MiOiJodHRwczovL2lzc3Vlci50ZXN0IiwiYXVkIjoiYXBpIiwiZXhwIjoxODAwMDAwMDYwfQ",
    "eyJpc3MiOiJhIiwiaXNzIjoiYiJ9",
    "e30",
    ".",
    ".",
    ".",
    "c2ln",
    "=",
    "AAAA",
];
const JWKS: &[&str] = &[
    r#"{"keys":["#,
    "]}",
    ",",
    r#"{"kty":"OKP","crv":"Ed25519","x":"Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE","kid":"a"}"#,
    r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#,
    r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#,
    r#"{"kty":"oct","k":"AAAA"}"#,
    "{}",
    "null",
    "7",
];
const YAML: &[&str] = &[
    "version: 1\n",
    "routes:\n",
    "  - ",
    "path: /a\n",
    "    service: b\n",
    "services: {b: {hosts: [\"192.0.2.1:80\"]}}\n",
    "a: ",
    "b",
    "\n",
    "- ",
    "  ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    ": ",
    "'",
    "\"",
    "|\n",
    ">\n",
    "#",
    "&a ",
    "*a",
    "!!str ",
    "? ",
    "---\n",
    "~",
    "1.0",
    "timeout: 5s\n",
    "é",
    "\t",
];
const FORWARDED: &[&str] = &[
    "10.0.0.2",
    "10.1.1.1",
    "192.0.2.9",
    "fd00::1",
    "2001:db8::1",
    "[fd00::2]:80",
    "[::1]",
    "10.0.0.3:80",
    "::ffff:10.0.0.1",
    ",",
    ",",
    ", ",
    "\n",
    "unknown",
    "",
    " ",
    "[",
    ":",
    "%1",
];
const HTTP1: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /b HTTP/1.1\r\nHost: a\r\n",
    "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 05\r\n",
    "Content-Length: +5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunked, identity\r\n",
    "Transfer-Encoding : chunked\r\n",
    "\r\n",
    "\r\n",
    "hello",
    "5\r\nhello\r\n",
    "0\r\n\r\n",
    "0\r\nx: y\r\n\r\n",
    "5;e=1\r\nhello\r\n",
    "Connection: close\r\n",
    "X: a\r\n b\r\n",
    "X: \u{0}\r\n",
    "\n",
    "\r",
    " ",
    "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "Upgrade: h2c\r\n",
    "Host: a\r\n",
];
const HTTP1_RESPONSE: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/1.1 204 No Content\r\n",
    "HTTP/1.1 304 Not Modified\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\n",
    "HTTP/1.1 500\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 5, 5\r\n",
    "Content-Length: 05\r\n",
    "Content-Length: 6\r\n",
    "Content-Length: 18446744073709551614\r\n",
    "Transfer-Encoding: chunked\r\n",
    "transfer-encoding:\tChunked \r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "Connection: x-a, \u{e9}, close\r\n",
    "X-A: b\r\n",
    " b\r\n",
    "X-A : b\r\n",
    "\r\n",
    "\r\n",
    "\r\n",
    "\n",
    "\r",
    "hello",
    "hello",
    "5\r\nhello\r\n",
    "3;a=b\r\nabc\r\n",
    "2;\u{1}\r\nab\r\n",
    "0\r\n\r\n",
    "0\r\nsum: 1\r\n\r\n",
    "0\r\nsum: 1\n\r\n",
    "00000000000000005\r\nhello\r\n",
    "ffffffffffffffff\r\n",
];

const NEAR_PATH: &str = "(/(a|b\\.|\\.{1,3}|%2[eE]|%2541|%25|41|%c3%a9|%3B|;x|%2[fF]|%5C|%7e|\\||%)?){1,5}";
const NEAR_AUTHORITY: &str =
    "(a|B-c|a_b|A\\.TEST|1\\.2\\.3\\.4|\\[::1\\]|\\[FE80::1\\]|u@a)\\.?(:|:80|:443|:8080|:00080|:65536|:x)?";
const NEAR_TAG: &str = "(GET |POST,GET |\\* )?(shop\\.test|\\*\\.a\\.test)?/(a|\\{id\\})?(/\\*\\*)?( strip=/a)?( add=/b)?\
    ( redirect=30[12],/x)?( (allow|deny)=(ip:)?10\\.0\\.0\\.0/[78],::1)?( timeout=[1-9]s)?( weight=0\\.[0-9]{1,5})?( proto=https)?";
/// `{"alg":"EdDSA"}` or `{"alg":"none"}`; valid claims, claims with a name twice, or an empty set; a signature of the right length.
const NEAR_TOKEN: &str = "(eyJhbGciOiJFZERTQSJ9|eyJhbGciOiJub25lIn0)\\.\
    (eyJpc3MiOiJodHRwczovL2lzc3Vlci50ZXN0IiwiYXVkIjoiYXBpIiwiZXhwIjoxODAwMDAwMDYwfQ|eyJpc3MiOiJhIiwiaXNzIjoiYiJ9|e30)\\.\
    (A{86}|c2ln|)";
const NEAR_JWKS: &str = r#"\{"keys":\[(\{"kty":"OKP","crv":"Ed25519","x":"Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE"(,"kid":"[ab]")?\},){0,3}(\{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","kid":"e"\}|\{\}|\{"kty":"oct","k":"AAAA"\})\]\}"#;
const NEAR_YAML: &str = "version: 1\n(routes:\n(  - path: (/a|'/b'|\"/c\"|\\{\\}|\\[\\])\n(    service: b\n|    path: /d\n)?){0,3})?\
    (services: (\\{b: \\{hosts: \\[\"192\\.0\\.2\\.1:80\"(, x)?\\]\\}\\}|~|\\|\n  text\n|&a b))?\n";
const NEAR_FORWARDED: &str = "((10\\.0\\.0\\.[1-3]|192\\.0\\.2\\.9|fd00::1|\\[fd00::2\\]:80|10\\.0\\.0\\.3:80|::ffff:10\\.0\\.0\\.1|unknown|)(,|, |\n)){0,6}\
    (10\\.0\\.0\\.9|192\\.0\\.2\\.8|x)?";
const NEAR_HTTP1: &str = "((GET|HEAD|POST|PUT) /[ab]?(\\?q)? HTTP/1\\.1\r\nHost: a\r\n(\
    (Connection: (close|keep-alive|host)\r\n)?\r\n|\
    Content-Length: 5\r\n(X: y\r\n)?\r\nhello|\
    Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n|\
    Transfer-Encoding: chunked\r\n\r\n(5\r\nhello\r\n){0,2}0\r\n\r\n)){1,4}(GET / HT)?";
/// Its first byte chooses the method and the cuts.
const NEAR_HTTP1_RESPONSE: &str = "[ -~](HTTP/1\\.1 10[023] A\r\n(Link: a\r\n)?\r\n)?HTTP/1\\.[01] (200|204|304|500)( OK)?\r\n\
    (Connection: (close|keep-alive|x)\r\n)?(X: y\r?\n)?(\
    \r\n(hello)?|\
    Content-Length: [05]\r\n\r\n(hello)?(HTTP/1.1 200 OK\r\n\r\n)?|\
    (Content-Length: 5\r\n)?Transfer-Encoding: chunked\r\n\r\n(0{0,16}5(;a=b| |\t|;\r)?\r\nhello\r\n){0,2}(0\r\n(sum: 1\r?\n)?\r\n)?(HT)?)";

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn a_canonical_path_reads_the_same_to_everyone(data in of(NEAR_PATH, PATH)) {
        super::path(&[b"/", data.as_slice()].concat());
        super::path(&data);
    }

    #[test]
    fn an_authority_reads_the_same_to_another_parser(data in of(NEAR_AUTHORITY, AUTHORITY)) {
        super::authority(&data);
    }

    #[test]
    fn a_declaration_is_read_again_from_its_text(data in of(NEAR_TAG, TAG)) {
        super::tag(&data);
    }

    #[test]
    fn no_text_is_a_token_without_its_key(data in of(NEAR_TOKEN, TOKEN)) {
        super::token(&data);
    }

    #[test]
    fn a_key_set_is_read_again_from_its_public_part(data in of(NEAR_JWKS, JWKS)) {
        super::jwks(&data);
    }

    #[test]
    fn a_configuration_has_the_shape_that_another_reader_sees(data in of(NEAR_YAML, YAML)) {
        super::yaml(&data);
    }

    #[test]
    fn a_response_is_seen_as_hypers_client_sees_it(data in of(NEAR_HTTP1_RESPONSE, HTTP1_RESPONSE)) {
        super::http1_response(&data);
    }

    #[test]
    fn the_client_cannot_be_chosen_from_behind_it(data in of(NEAR_FORWARDED, FORWARDED)) {
        super::forwarded(&data);
    }

    #[test]
    fn the_service_gets_well_formed_requests_that_the_client_made(data in of(NEAR_HTTP1, HTTP1)) {
        super::round_trip(&data);
    }
}

/// Inputs after which a property had to be stated more exactly.
#[test]
fn what_a_long_run_found_passes() {
    super::path(b"/%C2%9A");
    super::round_trip(b"PRI \xff");
    super::tag("a/Ѝ".as_bytes());
}
