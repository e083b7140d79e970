//! The grammar of filter expressions, and Consul's errors, which list the expected tokens.
//!
//! ```text
//! or    := and ("or" or)?      and := not ("and" and)?      not := "not" not | "(" or ")" | match
//! match := value ("not")? "in" selector | selector operator
//! ```

/// An expression as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expression {
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
    Not(Box<Expression>),
    Match { selector: Vec<String>, operator: Operator, negated: bool, value: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    In,
    Empty,
    Matches,
}

impl Operator {
    /// The name in errors.
    pub(super) fn name(self, negated: bool) -> &'static str {
        match (self, negated) {
            (Self::Equal, false) => "Equal",
            (Self::Equal, true) => "Not Equal",
            (Self::In, false) => "In",
            (Self::In, true) => "Not In",
            (Self::Empty, false) => "Is Empty",
            (Self::Empty, true) => "Is Not Empty",
            (Self::Matches, false) => "Matches",
            (Self::Matches, true) => "Not Matches",
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Expression, String> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    parser.blanks();
    let expression = parser.or()?;
    parser.blanks();
    if parser.at < text.len() {
        return Err(parser.expected(AFTER_MATCH));
    }
    Ok(expression)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

/// A word, quoted or not, and the selector that it could be as well.
struct Word {
    value: String,
    selector: Option<Vec<String>>,
}

impl Parser<'_> {
    fn or(&mut self) -> Result<Expression, String> {
        let left = self.and()?;
        Ok(if self.joined("or")? { Expression::Or(Box::new(left), Box::new(self.or()?)) } else { left })
    }

    fn and(&mut self) -> Result<Expression, String> {
        let left = self.not()?;
        Ok(if self.joined("and")? { Expression::And(Box::new(left), Box::new(self.and()?)) } else { left })
    }

    fn not(&mut self) -> Result<Expression, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("the embedded registry takes at most {DEPTH_MAX} terms"));
        }
        if self.keyword("not") {
            self.blanks();
            return Ok(Expression::Not(Box::new(self.not()?)));
        }
        if !self.eat("(") {
            return self.matching();
        }
        self.blanks();
        let inner = self.or()?;
        self.blanks();
        if !self.eat(")") {
            return Err(self.rule("grouping", "Unmatched parentheses"));
        }
        Ok(inner)
    }

    fn matching(&mut self) -> Result<Expression, String> {
        let word = self.word(AT_BEGINNING)?;
        let after = self.at;
        let spaced = self.blanks();
        let negated = spaced && self.keyword("not") && self.blanks();
        if spaced && self.keyword("in") && self.blanks() {
            let list = self.word(AT_SELECTOR)?;
            let selector = list.selector.ok_or_else(|| self.expected(AT_SELECTOR))?;
            return Ok(Expression::Match { selector, operator: Operator::In, negated, value: word.value });
        }
        let Some(selector) = word.selector else {
            self.at = if spaced { self.at } else { after };
            return Err(self.expected(if spaced {
                "\"in\", \"not\" or [ \\t\\r\\n]"
            } else {
                "[ \\t\\r\\n]"
            }));
        };
        let (operator, negated) = self.operator(spaced, negated)?;
        let value = match operator {
            Operator::Empty => String::new(),
            _ => self.word(AT_VALUE)?.value,
        };
        Ok(Expression::Match { selector, operator, negated, value })
    }

    fn operator(&mut self, spaced: bool, negated: bool) -> Result<(Operator, bool), String> {
        for (sign, differs) in [("==", false), ("!=", true)] {
            if !negated && self.eat(sign) {
                self.blanks();
                return Ok((Operator::Equal, differs));
            }
        }
        if !spaced {
            return Err(self.expected(AFTER_SELECTOR));
        }
        for (word, operator) in [("contains", Operator::In), ("matches", Operator::Matches)] {
            if self.keyword(word) {
                self.blanks();
                return Ok((operator, negated));
            }
        }
        if !negated && self.keyword("is") {
            self.blanks();
            let negated = self.keyword("not") && self.blanks();
            if self.eat("empty") {
                return Ok((Operator::Empty, negated));
            }
            return Err(self.expected(if negated { "\"empty\" or [ \\t\\r\\n]" } else { AFTER_IS }));
        }
        Err(self.expected(if negated { AFTER_NOT } else { AFTER_BLANKS }))
    }

    /// A selector, a number or a quoted string.
    fn word(&mut self, expected: &str) -> Result<Word, String> {
        let rest = &self.text[self.at..];
        let Some(first) = rest.chars().next() else { return Err(self.expected(expected)) };
        match first {
            'a'..='z' | 'A'..='Z' => {
                let selector = self.selector()?;
                Ok(Word { value: selector.join("."), selector: Some(selector) })
            }
            '"' | '`' => Ok(Word { value: self.quoted(first)?, selector: None }),
            '-' | '0'..='9' => {
                let length = rest.find(|c: char| !matches!(c, '-' | '0'..='9' | '.')).unwrap_or(rest.len());
                let value = rest[..length].to_owned();
                let valid = value.parse::<f64>().is_ok() && !value.ends_with('.');
                let next = rest[length..].chars().next();
                if !valid || next.is_some_and(|c| !matches!(c, ' ' | '\t' | '\r' | '\n' | ')')) {
                    self.at += number_length(rest);
                    return Err(self.rule("number", "Invalid number literal"));
                }
                self.at += length;
                Ok(Word { value, selector: None })
            }
            _ => Err(self.expected(expected)),
        }
    }

    fn selector(&mut self) -> Result<Vec<String>, String> {
        let mut parts = vec![self.identifier().ok_or_else(|| self.expected(AT_SELECTOR))?];
        loop {
            if self.eat(".") {
                parts.push(self.identifier().ok_or_else(|| self.expected("[a-zA-Z]"))?);
            } else if self.eat("[") {
                self.blanks();
                let quote = self.text[self.at..].chars().next().filter(|c| matches!(c, '"' | '`'));
                let quote = quote.ok_or_else(|| self.rule("index", "Invalid index"))?;
                parts.push(self.quoted(quote)?);
                self.blanks();
                if !self.eat("]") {
                    return Err(self.rule("index", "Unclosed index expression"));
                }
            } else {
                return Ok(parts);
            }
        }
    }

    fn identifier(&mut self) -> Option<String> {
        let rest = &self.text[self.at..];
        let length =
            rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '/').unwrap_or(rest.len());
        let name = &rest[..length];
        name.starts_with(|c: char| c.is_ascii_alphabetic()).then(|| {
            self.at += length;
            name.to_owned()
        })
    }

    /// Between `"`, with escapes; between `` ` ``, without.
    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let mut value = String::new();
        let mut chars = self.text[self.at + 1..].char_indices();
        while let Some((offset, c)) = chars.next() {
            if c == quote {
                self.at += offset + 2;
                return Ok(value);
            }
            if c == '\\' && quote == '"' {
                match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, 't')) => value.push('\t'),
                    Some((_, other)) => value.push(other),
                    None => {}
                }
            } else {
                value.push(c);
            }
        }
        self.at = self.text.len();
        Err(self.rule("string", "Unterminated string literal"))
    }

    /// True if the word follows, between blanks; whatever comes next must be set off from it.
    fn joined(&mut self, word: &str) -> Result<bool, String> {
        let before = self.at;
        if self.blanks() && self.eat(word) {
            if self.blanks() {
                return Ok(true);
            }
            if self.at == self.text.len() {
                return Err(self.expected("[ \\t\\r\\n]"));
            }
        }
        self.at = before;
        Ok(false)
    }

    /// The word, if a blank follows it; the blank stays.
    fn keyword(&mut self, word: &str) -> bool {
        let rest = &self.text[self.at..];
        let found = rest.strip_prefix(word).is_some_and(|rest| rest.starts_with([' ', '\t', '\r', '\n']));
        if found {
            self.at += word.len();
        }
        found
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.text[self.at..].starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// Skips blanks; returns whether there were any.
    fn blanks(&mut self) -> bool {
        let rest = &self.text[self.at..];
        let length = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
        self.at += length;
        length > 0
    }

    fn expected(&self, what: &str) -> String {
        format!("{}: no match found, expected: {what}", self.place())
    }

    fn rule(&self, rule: &str, what: &str) -> String {
        format!("{}: rule {rule:?}: {what}", self.place())
    }

    /// Line, column and offset, as the parser of Consul counts them.
    fn place(&self) -> String {
        format!("1:{} ({})", self.text[..self.at].chars().count() + 1, self.at)
    }
}

/// The length of the number at the beginning of the text.
fn number_length(rest: &str) -> usize {
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let sign = usize::from(rest.starts_with('-'));
    let whole = sign + digits(&rest[sign..]);
    match rest[whole..].strip_prefix('.') {
        Some(fraction) if digits(fraction) > 0 => whole + 1 + digits(fraction),
        _ => whole,
    }
}

/// The expected tokens at each place, in the words and the order of Consul's parser.
const AT_BEGINNING: &str = r#""(", "-", "0", "\"", "`", "not", [ \t\r\n], [1-9] or [a-zA-Z]"#;
const AT_VALUE: &str = r#""-", "0", "\"", "`", [ \t\r\n], [1-9] or [a-zA-Z]"#;
const AT_SELECTOR: &str = r"[ \t\r\n] or [a-zA-Z]";
const AFTER_SELECTOR: &str = r#""!=", ".", "==", "[", [ \t\r\n] or [a-zA-Z0-9_]"#;
const AFTER_BLANKS: &str = r#""!=", "==", "contains", "in", "is", "matches", "not" or [ \t\r\n]"#;
const AFTER_NOT: &str = r#""contains", "in", "matches" or [ \t\r\n]"#;
const AFTER_IS: &str = r#""empty", "not" or [ \t\r\n]"#;
const AFTER_MATCH: &str = r#"".", "[", [ \t\r\n], [a-zA-Z0-9_] or EOF"#;

/// Each term may be a call deep.
const DEPTH_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_said_in_consuls_words() {
        for (text, error) in [
            ("==", format!("1:1 (0): no match found, expected: {AT_BEGINNING}")),
            ("a.b=c", format!("1:4 (3): no match found, expected: {AFTER_SELECTOR}")),
            ("a.b", format!("1:4 (3): no match found, expected: {AFTER_SELECTOR}")),
            ("a ~ b", format!("1:3 (2): no match found, expected: {AFTER_BLANKS}")),
            ("a==", format!("1:4 (3): no match found, expected: {AT_VALUE}")),
            ("a==b and", r"1:9 (8): no match found, expected: [ \t\r\n]".to_owned()),
            ("(a==b", "1:6 (5): rule \"grouping\": Unmatched parentheses".to_owned()),
            ("a==b)", format!("1:5 (4): no match found, expected: {AFTER_MATCH}")),
            ("a is full", format!("1:6 (5): no match found, expected: {AFTER_IS}")),
            ("\"a\"", r"1:4 (3): no match found, expected: [ \t\r\n]".to_owned()),
            ("a==\"b", "1:6 (5): rule \"string\": Unterminated string literal".to_owned()),
            ("a==1.8.7", "1:7 (6): rule \"number\": Invalid number literal".to_owned()),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn nothing_that_is_sent_makes_the_parser_fail() {
        for text in
            ["", " ", "not", "not ", "(", ")", "\"", "a[", "a[\"", "a.", "ü", "a == ü", "a in", "-", "a==-"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&"(".repeat(100_000)).is_err());
    }
}
