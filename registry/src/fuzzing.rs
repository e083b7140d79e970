//! What `fuzz/` calls: it takes any bytes and panics when its property does not hold. Not a part of the product: built for
//! tests and with the feature `fuzzing`.

use serde::de::IgnoredAny;

use crate::server::read_registration;
use crate::types::parse_entries;
use crate::watch::Instance;

/// JSON of Consul's API. Each element of an answer is an instance that can be called, or is left out with a sentence of one
/// line; a registration is accepted or refused with such a sentence.
///
/// # Panics
/// The property does not hold.
pub fn consul_json(data: &[u8]) {
    if let Ok((entries, skipped)) = parse_entries(data) {
        // Not values: a number that no float can represent spoils only its element.
        let listed: Vec<IgnoredAny> = serde_json::from_slice(data).expect("a list");
        assert_eq!(entries.len() + skipped.len(), listed.len());
        for entry in &entries {
            match Instance::read(entry) {
                Ok(instance) => {
                    assert!(instance.port != 0 && !instance.address.is_empty() && !instance.id.is_empty());
                    assert_eq!(instance.status, Instance::status_of(entry));
                    let kept = serde_json::to_vec(&instance).expect("it can be saved");
                    assert_eq!(
                        serde_json::from_slice::<Instance>(&kept).ok(),
                        Some(instance),
                        "loaded again"
                    );
                }
                Err(why) => assert!(is_one_line(&why), "{why:?}"),
            }
        }
        assert!(skipped.iter().all(|why| is_one_line(why)), "{skipped:?}");
    }
    if let Err(why) = read_registration(data) {
        assert!(!why.is_empty());
    }
}

/// Text of the registry cannot forge a line of the gateway's log.
fn is_one_line(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prelude::*, sample};

    const WORDS: &[&str] = &[
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "\"",
        "null",
        "true",
        "-1",
        "80",
        "70000",
        "1e400",
        "\"a\"",
        "\"\\n\"",
        "\"\\u0000\"",
        r#"{"Node":{"Node":"n","Address":"10.0.0.1"},"Service":{"ID":"a","Port":80},"Checks":[]}"#,
        r#"{"Service":{"ID":"b\n","Kind":"x","Address":"h","Port":0}}"#,
        r#"{"Service":{"ID":"c","Address":"h","Port":1,"Weights":{"Passing":-1}},"Checks":[{"Status":"warning"}]}"#,
        r#""Service":"#,
        r#""ID":"#,
        r#""Checks":"#,
        r#""Tags":"#,
        r#""Name":"web""#,
        r#""Check":{"TTL":"3s"}"#,
        r#""Meta":{"a":"b"}"#,
        r#""Weights":{"Passing":1}"#,
    ];

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

        #[test]
        fn each_element_is_an_instance_that_can_be_called_or_is_left_out(
            pieces in collection::vec(prop_oneof![
                9 => sample::select(WORDS).prop_map(|word| word.as_bytes().to_vec()),
                1 => any::<u8>().prop_map(|byte| vec![byte]),
            ], 0..24),
            entries in collection::vec(sample::select(WORDS), 0..5),
        ) {
            super::consul_json(&pieces.concat());
            super::consul_json(format!("[{}]", entries.join(",")).as_bytes());
            super::consul_json(format!("{{{}}}", entries.join(",")).as_bytes());
        }
    }
}
