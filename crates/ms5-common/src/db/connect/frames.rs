//! Rows of a COPY, joined: the server sends each as a message of its own, and the engine spends more on a message than on
//! the bytes in it. Where messages of data stand behind each other, one message with all their bytes is as good: the protocol
//! gives their borders no meaning. Everything else goes on as it came.

use std::ops::Range;

use tokio::io::ReadBuf;

/// How much is read at once, in bytes.
const INPUT: usize = 1 << 16;
/// A message's type, then its length with the four bytes of that.
const HEADER: usize = 5;
const DATA: u8 = b'd';

/// What was read and not yet given on, and where in the server's messages that is.
pub(super) struct Frames {
    input: Box<[u8]>,
    unread: Range<usize>,
    /// The header of the message that goes on as it is, as far as it has gone on.
    header: Vec<u8>,
    /// How much of its body is left.
    body: usize,
    /// What comes is no PostgreSQL: others judge that.
    foreign: bool,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            input: vec![0; INPUT].into_boxed_slice(),
            unread: 0..0,
            header: Vec::with_capacity(HEADER),
            body: 0,
            foreign: false,
        }
    }
}

impl Frames {
    /// Whether there is nothing to give.
    pub(super) fn is_empty(&self) -> bool {
        self.unread.is_empty()
    }

    /// Where to read to when it is empty; how much was read is told to [`Frames::filled`].
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.input
    }

    /// So many bytes were read.
    pub(super) fn filled(&mut self, count: usize) {
        self.unread = 0..count.min(self.input.len());
    }

    /// Gives on as much as there is room for.
    pub(super) fn give(&mut self, out: &mut ReadBuf<'_>) {
        while !self.unread.is_empty() && out.remaining() > 0 {
            let between = self.header.is_empty() && self.body == 0 && !self.foreign;
            if !(between && self.join(out)) {
                self.pass(out);
            }
        }
    }

    /// Joins the messages of data that are here whole and have room; not fewer than two.
    fn join(&mut self, out: &mut ReadBuf<'_>) -> bool {
        let unread = &self.input[self.unread.clone()];
        let bodies = || {
            let mut at = 0;
            std::iter::from_fn(move || {
                let (header, rest) = unread.get(at..)?.split_first_chunk::<HEADER>()?;
                let body = rest.get(..body_length(header).filter(|_| header[0] == DATA)?)?;
                at += HEADER + body.len();
                Some(body)
            })
        };
        let (mut count, mut total) = (0, 0);
        for body in bodies() {
            if HEADER + total + body.len() > out.remaining() {
                break;
            }
            (count, total) = (count + 1, total + body.len());
        }
        let Some(length) = u32::try_from(total + 4).ok().filter(|_| count > 1) else { return false };
        out.put_slice(&[DATA]);
        out.put_slice(&length.to_be_bytes());
        bodies().take(count).for_each(|body| out.put_slice(body));
        self.unread.start += count * HEADER + total;
        true
    }

    /// Gives on a part of a message as it is.
    fn pass(&mut self, out: &mut ReadBuf<'_>) {
        let unread = &self.input[self.unread.clone()];
        let wanted = match (self.foreign, self.body) {
            (true, _) => unread.len(),
            (false, 0) => HEADER - self.header.len(),
            (false, body) => body,
        };
        let part = &unread[..wanted.min(unread.len()).min(out.remaining())];
        out.put_slice(part);
        self.unread.start += part.len();
        if self.body > 0 {
            self.body -= part.len();
            return;
        }
        if !self.foreign {
            self.header.extend_from_slice(part);
        }
        if let Some(header) = self.header.first_chunk::<HEADER>() {
            let body = body_length(header);
            self.foreign = body.is_none();
            self.body = body.unwrap_or_default();
            self.header.clear();
        }
    }
}

/// How long a message's body is; None for what no message begins with.
fn body_length(header: &[u8; HEADER]) -> Option<usize> {
    let [_, length @ ..] = header;
    usize::try_from(u32::from_be_bytes(*length)).ok()?.checked_sub(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[kind][..], &length.to_be_bytes(), body].concat()
    }

    /// What comes out when `bytes` are read in these portions, and given on with so much room at a time.
    fn through(bytes: &[u8], portions: &[usize], rooms: &[usize]) -> Vec<u8> {
        let (mut frames, mut out) = (Frames::default(), Vec::new());
        let (mut portions, mut rooms) = (portions.iter().cycle(), rooms.iter().cycle());
        let mut rest = bytes;
        while !rest.is_empty() {
            let (portion, later) = rest.split_at((*portions.next().unwrap()).min(rest.len()));
            frames.room()[..portion.len()].copy_from_slice(portion);
            frames.filled(portion.len());
            rest = later;
            while !frames.is_empty() {
                let mut room = vec![0; *rooms.next().unwrap()];
                let mut buffer = ReadBuf::new(&mut room);
                frames.give(&mut buffer);
                assert!(!buffer.filled().is_empty(), "nothing was given where there was room");
                out.extend_from_slice(buffer.filled());
            }
        }
        out
    }

    /// Messages, data that stands together as one.
    fn parsed(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut all: Vec<(u8, Vec<u8>)> = Vec::new();
        while let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() {
            let (body, later) = rest.split_at(body_length(header).unwrap());
            match all.last_mut() {
                Some((DATA, last)) if header[0] == DATA => last.extend_from_slice(body),
                _ => all.push((header[0], body.to_vec())),
            }
            bytes = later;
        }
        assert!(bytes.is_empty());
        all
    }

    proptest! {
        // The same cases each time: a build fails for what was changed, and for nothing else.
        #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

        #[test]
        fn every_byte_comes_through_whatever_the_portions(
            messages in vec((prop_oneof![Just(DATA), Just(DATA), Just(DATA), any::<u8>()], vec(any::<u8>(), 0..40)), 0..60),
            portions in vec(1..300_usize, 1..20),
            rooms in vec(1..200_usize, 1..20),
        ) {
            let bytes: Vec<u8> = messages.iter().flat_map(|(kind, body)| message(*kind, body)).collect();
            let out = through(&bytes, &portions, &rooms);
            prop_assert_eq!(parsed(&out), parsed(&bytes));
            prop_assert!(out.len() <= bytes.len());
        }

        #[test]
        fn what_is_no_postgres_goes_on_as_it_is(bytes in vec(any::<u8>(), 0..300), portion in 1..50_usize) {
            // A length below 4 ends all understanding; before that only data is touched.
            let bytes: Vec<u8> = [message(b'R', b"x"), vec![b'H', 0, 0, 0, 3], bytes].concat();
            prop_assert_eq!(through(&bytes, &[portion], &[7, 64]), bytes);
        }
    }

    #[test]
    fn data_that_stands_together_is_one_message() {
        let rows: Vec<u8> = (0..100).flat_map(|row: u8| message(DATA, &[row; 9])).collect();
        let bytes = [message(b'H', &[0; 3]), rows, message(b'c', b"")].concat();
        let out = through(&bytes, &[INPUT], &[INPUT]);
        let kinds = [b'H', DATA, b'c'];
        assert_eq!(out.len(), bytes.len() - 99 * HEADER);
        assert_eq!(parsed(&out).iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), kinds);
        // Without room for two it goes on as it came.
        assert_eq!(through(&bytes, &[INPUT], &[20]), bytes);
    }
}
