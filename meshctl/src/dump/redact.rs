//! What is secret in a text, by how it looks. Pure.

/// What a PEM block begins and ends with (RFC 7468).
const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// The text without private keys in PEM and without JSON Web Tokens, which service accounts' tokens are. Certificates stay.
pub fn redact(text: &str) -> String {
    without_tokens(&without_keys(text))
}

fn without_keys(text: &str) -> String {
    let (mut rest, mut clean) = (text, String::with_capacity(text.len()));
    while let Some(at) = rest.find(BEGIN) {
        let (before, block) = rest.split_at(at);
        clean.push_str(before);
        let label = block[BEGIN.len()..].split(DASHES).next().unwrap_or_default();
        // One that does not end is secret to the end of the text.
        let end = block.find(END).map(|end| end + END.len());
        let end = end.and_then(|end| Some(end + block[end..].find(DASHES)? + DASHES.len()));
        let (block, after) = block.split_at(end.unwrap_or(block.len()));
        clean.push_str(if label.contains("PRIVATE KEY") { "[a private key was removed]" } else { block });
        rest = after;
    }
    clean + rest
}

fn without_tokens(text: &str) -> String {
    let of_token = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let mut clean = String::with_capacity(text.len());
    for piece in text.split_inclusive(|c| !of_token(c)) {
        let word = piece.trim_end_matches(|c| !of_token(c));
        // A header in base64url begins so: it is JSON, `{"`.
        if word.starts_with("eyJ") && word.matches('.').count() == 2 {
            clean.push_str("[a token was removed]");
            clean.push_str(&piece[word.len()..]);
        } else {
            clean.push_str(piece);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn private_keys_and_tokens_go_and_the_rest_stays() {
        let table = [
            "a -----BEGIN PRIVATE KEY-----\nMIG\n-----END PRIVATE KEY----- b",
            r#"{"why": "-----BEGIN EC PRIVATE KEY-----\nMIG\n-----END EC PRIVATE KEY-----\n"}"#,
            "-----BEGIN PRIVATE KEY-----\ncut off",
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
            "Bearer eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl, refused",
            "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln",
            "eye.of.storm 10.2.1.11 mesh.example.org ✓",
        ];
        let shown: Vec<String> = table.iter().map(|text| redact(text).replace('\n', "⏎")).collect();
        expect![[r#"
            a [a private key was removed] b
            {"why": "[a private key was removed]\n"}
            [a private key was removed]
            -----BEGIN CERTIFICATE-----⏎MIIB⏎-----END CERTIFICATE-----
            Bearer [a token was removed], refused
            [a token was removed]
            eye.of.storm 10.2.1.11 mesh.example.org ✓"#]]
        .assert_eq(&shown.join("\n"));
    }
}
