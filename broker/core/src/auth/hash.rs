//! SHA-256 as text and in comparisons that take as long whatever is compared.

use std::fmt;
use std::str::FromStr;

use ring::digest;

/// What stands for a secret where the secret itself is not needed.
#[derive(Clone, Copy, PartialOrd, Ord)]
pub struct Sha256(pub [u8; 32]);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 is 64 hexadecimal digits in lower case")]
pub struct NotASha256;

impl Sha256 {
    pub fn of(bytes: &[u8]) -> Sha256 {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
        Sha256(hash)
    }
}

/// Whether two texts are the same, in a time that tells nothing about either.
pub fn is_same_secret(one: &[u8], other: &[u8]) -> bool {
    Sha256::of(one) == Sha256::of(other)
}

impl PartialEq for Sha256 {
    /// Looks at every byte, so that the time it takes does not tell how many are right.
    fn eq(&self, other: &Sha256) -> bool {
        let difference = self.0.iter().zip(&other.0).fold(0, |sum, (one, other)| {
            // Without it the compiler may leave the loop at the first difference.
            std::hint::black_box(sum | (one ^ other))
        });
        difference == 0
    }
}

impl Eq for Sha256 {}

impl FromStr for Sha256 {
    type Err = NotASha256;

    fn from_str(text: &str) -> Result<Sha256, NotASha256> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(NotASha256);
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Sha256(hash))
    }
}

/// One hash has one text: upper case is refused.
fn digit(character: u8) -> Result<u8, NotASha256> {
    match character {
        b'0'..=b'9' => Ok(character - b'0'),
        b'a'..=b'f' => Ok(character - b'a' + 10),
        _ => Err(NotASha256),
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hash_has_one_text() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Sha256::of(b"").to_string(), empty);
        assert_eq!(empty.parse(), Ok(Sha256::of(b"")));
        assert_eq!(empty.to_uppercase().parse::<Sha256>(), Err(NotASha256));
        assert_eq!(empty[1..].parse::<Sha256>(), Err(NotASha256));
        assert_eq!("ä".repeat(32).parse::<Sha256>(), Err(NotASha256));
    }

    proptest! {
        #[test]
        fn hashes_are_equal_if_all_their_bytes_are(hash: [u8; 32], at in 0..32usize, other: u8) {
            let mut changed = hash;
            changed[at] = other;
            prop_assert_eq!(Sha256(hash) == Sha256(changed), hash[at] == other);
        }
    }
}
