//! Secrets and personal data, by the shapes they have in print. What is found is counted by kind and never kept.
//!
//! Card numbers pass Luhn's check (ISO/IEC 7812) and account numbers the check of ISO 13616, so that few others are taken
//! for them. Names and postal addresses have no shape, and are not looked for.

use std::net::Ipv4Addr;

/// Keys that begin with a name of their own: kind, beginning, letters behind it at least.
const KEYS: [(&str, &str, usize); 16] = [
    ("AWS key", "AKIA", 16),
    ("AWS key", "ASIA", 16),
    ("GitHub token", "ghp_", 36),
    ("GitHub token", "gho_", 36),
    ("GitHub token", "ghs_", 36),
    ("GitHub token", "github_pat_", 40),
    ("GitLab token", "glpat-", 20),
    ("Google key", "AIza", 35),
    ("Hugging Face token", "hf_", 30),
    ("OpenAI key", "sk-proj-", 20),
    ("Anthropic key", "sk-ant-", 20),
    ("OpenAI key", "sk-", 32),
    ("Slack token", "xoxb-", 20),
    ("Slack token", "xoxp-", 20),
    ("Stripe key", "sk_live_", 20),
    ("npm token", "npm_", 36),
];

/// The kinds that a text holds, each once.
pub(super) fn kinds(text: &str) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    let mut add = |kind: &'static str| {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    };
    if text.contains("-----BEGIN ") && text.contains("PRIVATE KEY-----") {
        add("private key");
    }
    let is_border = |c: char| c.is_whitespace() || "\"'`<>()[]{},;|=:".contains(c);
    for word in text.split(is_border).filter(|word| word.len() >= 7) {
        let word = word.trim_end_matches(['.', '!', '?']);
        if let Some((kind, ..)) = KEYS.iter().find(|(_, start, n)| is_key(word, start, *n)) {
            add(kind);
        } else if is_email(word) {
            add("email address");
        } else if is_web_token(word) {
            add("web token");
        } else if is_public_address(word) {
            add("IP address");
        } else if is_iban(word) {
            add("IBAN");
        }
    }
    numbers(text, &mut add);
    kinds
}

fn is_key(word: &str, start: &str, n: usize) -> bool {
    let rest = word.strip_prefix(start).unwrap_or_default();
    let is_random = |rest: &str| rest.bytes().any(|b| b.is_ascii_digit());
    rest.len() >= n
        && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
        && is_random(rest)
}

fn is_email(word: &str) -> bool {
    let Some((name, domain)) = word.split_once('@') else { return false };
    let good = |text: &str, more: &[u8]| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
    };
    let Some((host, top)) = domain.rsplit_once('.') else { return false };
    good(name, b"._%+-")
        && good(host, b".-")
        && top.len() >= 2
        && top.bytes().all(|b| b.is_ascii_alphabetic())
        && !["example", "test", "invalid"].contains(&host)
}

/// A JSON web token: three parts in base64, the first of which begins with `{"`.
fn is_web_token(word: &str) -> bool {
    let parts: Vec<&str> = word.split('.').collect();
    parts.len() == 3
        && parts[0].starts_with("eyJ")
        && parts.iter().all(|part| {
            part.len() >= 10
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
        })
}

fn is_public_address(word: &str) -> bool {
    word.parse::<Ipv4Addr>().is_ok_and(|address| {
        let is_low = address.octets()[0] < 20; // versions of programs look the same
        !(address.is_private()
            || address.is_loopback()
            || address.is_documentation()
            || address.is_link_local()
            || address.is_broadcast()
            || is_low)
    })
}

fn is_iban(word: &str) -> bool {
    let bytes = word.as_bytes();
    if !(15..=34).contains(&bytes.len())
        || !bytes[..2].iter().all(u8::is_ascii_uppercase)
        || !bytes[2..4].iter().all(u8::is_ascii_digit)
        || !bytes.iter().all(u8::is_ascii_alphanumeric)
    {
        return false;
    }
    let remainder = bytes[4..].iter().chain(&bytes[..4]).fold(0, |rest: u64, &byte| match byte {
        b'0'..=b'9' => (rest * 10 + u64::from(byte - b'0')) % 97,
        _ => (rest * 100 + u64::from(byte.to_ascii_uppercase() - b'A') + 10) % 97,
    });
    remainder == 1
}

/// Card and telephone numbers: digits with single spaces, dots or dashes between.
fn numbers(text: &str, add: &mut impl FnMut(&'static str)) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|i| at + i) {
        let (mut digits, mut end) = (Vec::new(), start);
        while end < bytes.len() {
            match bytes[end] {
                digit @ b'0'..=b'9' => digits.push(digit - b'0'),
                b' ' | b'-' if bytes.get(end + 1).is_some_and(u8::is_ascii_digit) => {}
                _ => break,
            }
            end += 1;
        }
        let before = start.checked_sub(1).map(|i| bytes[i]);
        let inside_word = before.is_some_and(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if before == Some(b'+') && (8..=15).contains(&digits.len()) && digits[0] != 0 {
            add("telephone number");
        } else if !inside_word && is_card(&digits) {
            add("card number");
        }
        at = end.max(start + 1);
    }
}

fn is_card(digits: &[u8]) -> bool {
    if !(13..=19).contains(&digits.len()) || !(3..=6).contains(&digits[0]) {
        return false;
    }
    let sum = digits.iter().rev().enumerate().fold(0, |sum, (i, &digit)| {
        let digit = u32::from(digit);
        sum + if i % 2 == 0 { digit } else { digit * 2 - if digit > 4 { 9 } else { 0 } }
    });
    sum % 10 == 0 && digits.iter().any(|&digit| digit != digits[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_found_and_its_lookalikes_are_not() {
        // none of these is anybody's: numbers from the standards' own examples, keys made of one letter
        let a = "a1".repeat(30);
        let found = [
            ("write to jane.doe+x@mail.example.org.", "email address"),
            ("card 4111 1111 1111 1111, please", "card number"),
            ("call +44 20 7946 0958 now", "telephone number"),
            ("IBAN: GB82WEST12345698765432", "IBAN"),
            ("ping 198.18.0.1 again", "IP address"),
            ("-----BEGIN RSA PRIVATE KEY-----\nabc", "private key"),
        ];
        for (text, kind) in found {
            assert_eq!(kinds(text), [kind], "{text}");
        }
        for (kind, start, _) in KEYS {
            assert_eq!(kinds(&format!("key={start}{a}")), [kind], "{start}");
        }
        assert_eq!(kinds(&format!("eyJ{a}.{a}.{a}")), ["web token"]);
        let innocent = [
            "card 4111 1111 1111 1112",
            "version 1.2.3.4 on 127.0.0.1 and 192.168.0.1",
            "2024-01-02 03:04:05 and 1234567890123456",
            "a@b, user@host, @handle@x.y",
            "sk-learn and hf_transformers are names",
            "GB82WEST12345698765433",
            "0.4111111111111111",
        ];
        for text in innocent {
            assert_eq!(kinds(text), [""; 0], "{text}");
        }
    }
}
