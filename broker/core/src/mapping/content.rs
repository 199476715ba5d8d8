//! Between bytes and base64: `contentHandlingStrategy`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::message::{Message, MessageKind};

/// Without one, a body passes as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentHandling {
    /// Text is base64 and becomes the bytes. What is binary already stays.
    ConvertToBinary,
    /// Bytes become base64. What is text already stays.
    ConvertToText,
}

/// A text was to become bytes and is not base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is not base64")]
pub struct NotBase64;

impl ContentHandling {
    pub fn convert(self, body: Message) -> Result<Message, NotBase64> {
        match (self, body.kind) {
            (ContentHandling::ConvertToBinary, MessageKind::Text) => {
                let bytes = STANDARD.decode(&body.payload).map_err(|_| NotBase64)?;
                Ok(Message::binary(Bytes::from(bytes)))
            }
            (ContentHandling::ConvertToText, MessageKind::Binary) => {
                Ok(Message::text(STANDARD.encode(&body.payload)))
            }
            (ContentHandling::ConvertToBinary, MessageKind::Binary)
            | (ContentHandling::ConvertToText, MessageKind::Text) => Ok(body),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ContentHandling::{ConvertToBinary, ConvertToText};
    use super::*;

    #[test]
    fn text_becomes_bytes_and_bytes_become_text() {
        let (text, bytes) = (Message::text("AP8="), Message::binary(vec![0, 255]));
        assert_eq!(ConvertToBinary.convert(text.clone()), Ok(bytes.clone()));
        assert_eq!(ConvertToText.convert(bytes.clone()), Ok(text.clone()));
        assert_eq!(ConvertToBinary.convert(bytes.clone()), Ok(bytes));
        assert_eq!(ConvertToText.convert(text.clone()), Ok(text));
    }

    #[test]
    fn what_is_no_base64_is_refused() {
        assert_eq!(ConvertToBinary.convert(Message::text("{}")), Err(NotBase64));
        assert_eq!(ConvertToBinary.convert(Message::text("")), Ok(Message::binary(vec![])));
    }
}
