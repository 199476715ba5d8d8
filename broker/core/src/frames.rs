//! What a client's frames may be (RFC 6455 section 5): judged by their headers, as the bytes come in
//! and before anything is allocated for what they announce.
//!
//! Invariants:
//!
//! * No byte of a header is passed on once it shows that the frame is not to be had: what stood
//!   before it is still read and answered.
//! * A guard holds no payload, however much of it there is.

/// What a client may send at most. None is without a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameLimits {
    pub message_bytes_max: Option<u64>,
    pub frame_bytes_max: Option<u64>,
    /// Frames that one message may be cut into, empty ones included.
    pub fragments_max: Option<u64>,
}

/// Why no more frames are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameFault {
    /// The protocol has no such frame, or not here.
    Protocol,
    TooBig,
    TooManyFragments,
}

/// Looks at what one client sends.
#[derive(Debug, Default)]
pub struct FrameGuard {
    /// The first byte of the header under way.
    first: u8,
    /// Bytes of the header under way that were seen.
    seen: u8,
    /// Bytes that the header under way has, once that is known.
    header_bytes: u8,
    /// Whether a message was begun whose last frame has not come.
    is_fragmented: bool,
    fault: Option<FrameFault>,
    /// What the header under way announces; then what is still to come of it.
    payload: u64,
    /// Of the message under way.
    message_bytes: u64,
    fragments: u64,
}

/// Larger frames are refused where the limits are set to none: a frame is held whole.
const FRAME_BYTES_MAX: u64 = 1 << 30;
const CONTROL_BYTES_MAX: u64 = 125;
const MASK_BYTES: u8 = 4;

const FINAL: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const CONTROL: u8 = 0x08;
const MASKED: u8 = 0x80;

const CONTINUATION: u8 = 0;

impl FrameGuard {
    /// How many of the bytes may be passed on: all of them, or those before the fault.
    pub fn on_bytes(&mut self, limits: &FrameLimits, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && self.fault.is_none() {
            if self.is_in_payload() {
                let left = usize::try_from(self.payload).unwrap_or(usize::MAX);
                let passed = left.min(bytes.len() - at);
                self.payload -= passed as u64;
                at += passed;
                self.end_frame_if_whole();
            } else {
                match self.on_header_byte(limits, bytes[at]) {
                    Ok(()) => at += 1,
                    Err(fault) => self.fault = Some(fault),
                }
            }
        }
        at
    }

    pub fn fault(&self) -> Option<FrameFault> {
        self.fault
    }

    /// Whether something was begun that is not whole: a frame or a message.
    pub fn is_unfinished(&self) -> bool {
        self.seen > 0 || self.is_fragmented
    }

    fn is_in_payload(&self) -> bool {
        self.seen > 0 && self.seen == self.header_bytes
    }

    fn on_header_byte(&mut self, limits: &FrameLimits, byte: u8) -> Result<(), FrameFault> {
        match self.seen {
            0 => self.on_first_byte(byte)?,
            1 => self.on_length_byte(byte)?,
            // The length, which stands before the mask.
            seen if seen + MASK_BYTES < self.header_bytes => {
                // RFC 6455 section 5.2: the highest bit of a long length is 0.
                if seen == 2 && self.header_bytes > 8 && byte & 0x80 != 0 {
                    return Err(FrameFault::Protocol);
                }
                self.payload = self.payload << 8 | u64::from(byte);
            }
            _ => (),
        }
        let seen = self.seen + 1;
        let is_length_known = seen >= 2 && seen + MASK_BYTES == self.header_bytes;
        if is_length_known {
            self.judge_length(limits)?;
        }
        self.seen = seen;
        self.end_frame_if_whole();
        Ok(())
    }

    fn on_first_byte(&mut self, byte: u8) -> Result<(), FrameFault> {
        let is_final = byte & FINAL != 0;
        let is_fitting = match byte & OPCODE {
            CONTINUATION => self.is_fragmented,
            1 | 2 => !self.is_fragmented,
            8..=10 => is_final,
            _ => false,
        };
        if !is_fitting || byte & RESERVED_BITS != 0 {
            return Err(FrameFault::Protocol);
        }
        self.first = byte;
        // Not known yet.
        self.header_bytes = u8::MAX;
        Ok(())
    }

    fn on_length_byte(&mut self, byte: u8) -> Result<(), FrameFault> {
        let length = byte & !MASKED;
        // RFC 6455 section 5.1: a client masks each frame.
        if byte & MASKED == 0 || self.is_control() && u64::from(length) > CONTROL_BYTES_MAX {
            return Err(FrameFault::Protocol);
        }
        let length_bytes = match length {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        self.payload = if length_bytes == 0 { u64::from(length) } else { 0 };
        self.header_bytes = 2 + length_bytes + MASK_BYTES;
        Ok(())
    }

    fn judge_length(&mut self, limits: &FrameLimits) -> Result<(), FrameFault> {
        if self.is_control() {
            return Ok(());
        }
        let frame_bytes_max = limits.frame_bytes_max.unwrap_or(FRAME_BYTES_MAX);
        let message_bytes = self.message_bytes.saturating_add(self.payload);
        let fragments = self.fragments + 1;
        if self.payload > frame_bytes_max
            || limits.message_bytes_max.is_some_and(|max| message_bytes > max)
        {
            return Err(FrameFault::TooBig);
        }
        if limits.fragments_max.is_some_and(|max| fragments > max) {
            return Err(FrameFault::TooManyFragments);
        }
        self.message_bytes = message_bytes;
        self.fragments = fragments;
        Ok(())
    }

    fn end_frame_if_whole(&mut self) {
        if !self.is_in_payload() || self.payload > 0 {
            return;
        }
        self.seen = 0;
        if self.is_control() {
            return;
        }
        self.is_fragmented = self.first & FINAL == 0;
        if !self.is_fragmented {
            self.message_bytes = 0;
            self.fragments = 0;
        }
    }

    fn is_control(&self) -> bool {
        self.first & CONTROL != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: FrameLimits = FrameLimits {
        message_bytes_max: Some(1000),
        frame_bytes_max: Some(400),
        fragments_max: Some(4),
    };

    #[test]
    fn whole_messages_pass_and_leave_nothing_behind() {
        let mut guard = FrameGuard::default();
        for bytes in [
            frame(0x81, 5),
            frame(0x82, 0),
            frame(0x82, 400),
            frame(0x89, 125),
            [frame(0x01, 300), frame(0x00, 0), frame(0x8a, 3), frame(0x80, 400)].concat(),
            frame(0x88, 2),
        ] {
            assert_eq!(guard.on_bytes(&LIMITS, &bytes), bytes.len());
            assert!(!guard.is_unfinished());
        }
        assert_eq!(guard.fault(), None);
    }

    #[test]
    fn what_was_begun_is_unfinished() {
        for begun in
            [&frame(0x81, 5)[..10], &frame(0x81, 5)[..1], &frame(0x01, 0), &frame(0x89, 1)[..6]]
        {
            let mut guard = FrameGuard::default();
            assert_eq!(guard.on_bytes(&LIMITS, begun), begun.len());
            assert!(guard.is_unfinished(), "{begun:02x?}");
        }
    }

    #[test]
    fn each_fault_is_seen_at_the_first_byte_that_shows_it() {
        let long = |length: u64| [vec![0x82, 0xff], length.to_be_bytes().to_vec()].concat();
        let part = frame(0x01, 0);
        for (what, before, bytes, passed, fault) in [
            ("unmasked", &[][..], vec![0x81, 1], 1, FrameFault::Protocol),
            ("a reserved bit", &[], frame(0xc1, 1), 0, FrameFault::Protocol),
            ("a reserved opcode", &[], frame(0x83, 1), 0, FrameFault::Protocol),
            ("a reserved control", &[], frame(0x8b, 1), 0, FrameFault::Protocol),
            ("a fragmented Ping", &[], frame(0x09, 1), 0, FrameFault::Protocol),
            ("a long Ping", &[], frame(0x89, 126), 1, FrameFault::Protocol),
            ("nothing continued", &[], frame(0x80, 1), 0, FrameFault::Protocol),
            ("a message within another", &part, frame(0x81, 1), 0, FrameFault::Protocol),
            ("the highest bit", &[], long(1 << 63), 2, FrameFault::Protocol),
            ("a frame too big", &[], long(1 << 40), 9, FrameFault::TooBig),
            ("a frame a little too big", &[], frame(0x82, 401), 3, FrameFault::TooBig),
            (
                "a message too big",
                &[frame(0x01, 400), frame(0x00, 400)].concat(),
                frame(0x80, 201),
                3,
                FrameFault::TooBig,
            ),
            (
                "too many fragments",
                &[&*part, &frame(0, 0), &frame(0, 0), &frame(0, 0)].concat(),
                frame(0x80, 0),
                1,
                FrameFault::TooManyFragments,
            ),
        ] {
            let mut guard = FrameGuard::default();
            assert_eq!(guard.on_bytes(&LIMITS, before), before.len(), "{what}");
            assert_eq!(guard.on_bytes(&LIMITS, &bytes), passed, "{what}");
            assert_eq!(guard.fault(), Some(fault), "{what}");
            assert_eq!(guard.on_bytes(&LIMITS, &frame(0x81, 1)), 0, "{what}");
        }
    }

    #[test]
    fn without_limits_what_no_machine_can_hold_is_still_refused() {
        let none = FrameLimits::default();
        let mut guard = FrameGuard::default();
        let announced = [0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0];
        assert_eq!(guard.on_bytes(&none, &announced), 9);
        assert_eq!(guard.fault(), Some(FrameFault::TooBig));
        let mut guard = FrameGuard::default();
        for _ in 0..10_000 {
            guard.on_bytes(&none, &frame(if guard.is_unfinished() { 0 } else { 1 }, 0));
        }
        assert_eq!((guard.fault(), guard.is_unfinished()), (None, true));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_are_cut(
            bytes in prop::collection::vec(prop_oneof![
                Just(0x81_u8), Just(0x01), Just(0x00), Just(0x80), Just(0x89), Just(0xfe), any::<u8>()
            ], 0..200),
            pieces in prop::collection::vec(1..20_usize, 200),
        ) {
            let mut whole = FrameGuard::default();
            let passed = whole.on_bytes(&LIMITS, &bytes);
            let (mut cut, mut at) = (FrameGuard::default(), 0);
            for piece in pieces {
                let end = bytes.len().min(at + piece);
                at += cut.on_bytes(&LIMITS, &bytes[at..end]);
            }
            prop_assert_eq!(at, passed);
            prop_assert_eq!(cut.fault(), whole.fault());
            prop_assert_eq!(cut.is_unfinished(), whole.is_unfinished());
        }
    }

    /// Masked with zeros.
    fn frame(first: u8, length: u16) -> Vec<u8> {
        let mut frame = vec![first];
        match length {
            0..126 => frame.push(0x80 | length as u8),
            _ => {
                frame.push(0x80 | 126);
                frame.extend(length.to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(vec![0; usize::from(length)]);
        frame
    }
}
