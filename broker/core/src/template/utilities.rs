//! `$util`: what API Gateway adds to Velocity.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::event::fields::decode;
use crate::template::RenderFault;
use crate::template::heap::{Heap, Outcome, Value};

impl Heap {
    /// Null if there is no such method with such arguments.
    pub fn call_utilities(&mut self, name: &str, arguments: &[Value]) -> Outcome<Value> {
        let [argument] = arguments else { return Ok(Value::Null) };
        let text = self.print(argument)?;
        // What comes out is up to six times as long.
        self.pay_text(text.len())?;
        match name {
            "escapeJavaScript" => self.text(escape_java_script(&text)),
            "parseJson" => self.parse_json(&text),
            "urlEncode" => self.text(url_encode(&text)),
            "urlDecode" => self.text(decode(&text)),
            "base64Encode" => self.text(STANDARD.encode(&*text)),
            "base64Decode" => {
                let bytes = STANDARD.decode(&*text).map_err(|_| RenderFault::NotBase64)?;
                self.text(String::from_utf8_lossy(&bytes))
            }
            _ => Ok(Value::Null),
        }
    }
}

/// As Apache Commons does it, which API Gateway's documentation follows: also of `'`, which JSON
/// does not let be escaped, and of `/`.
fn escape_java_script(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\'' | '\\' | '/' => escaped.extend(['\\', character]),
            '\u{8}' => escaped.push_str("\\b"),
            '\u{c}' => escaped.push_str("\\f"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            ' '..='~' => escaped.push(character),
            _ => {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    escaped.push_str(&format!("\\u{unit:04X}"));
                }
            }
        }
    }
    escaped
}

/// As Java's `URLEncoder`, which encodes as forms do.
fn url_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' => encoded.push('+'),
            b'.' | b'-' | b'*' | b'_' => encoded.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => encoded.push(char::from(byte)),
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
