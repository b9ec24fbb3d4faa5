//! Deflate by Intel's ISA-L, in blocks that know nothing of each other, and
//! joined are one stream.
//!
//! This is all of the project that is not safe Rust: five lines around
//! `isal_deflate_stateless`, which is made for this ("FULL_FLUSH will byte align
//! the output deflate block so additional blocks can be easily appended",
//! `igzip_lib.h`). The bindings of higher level know streams only, and allocate.

use isal_sys::igzip_lib::{
    COMP_OK, FULL_FLUSH, ISAL_DEF_LVL2_MIN, isal_deflate_stateless, isal_deflate_stateless_init, isal_zstream,
};

/// The level. With this workspace it leaves 3 to 4 % less than level 1 with the
/// largest, and takes a third longer: which, since what the encoders have no time
/// for is put away, the crashed process mostly does not wait for.
const LEVEL: u32 = 2;
/// Bytes that it wants to work with, besides 86 KiB of its own. As many as it
/// takes for deflate blocks of 4,096 tokens, each with Huffman codes of its own:
/// a program's memory is of another kind every few pages. The minimum has room for
/// 1,024 tokens of four bytes.
const WORKSPACE: usize = ISAL_DEF_LVL2_MIN as usize + 3 * 4 * 1024;

/// One thread's encoder, some 170 KiB.
pub struct Encoder {
    stream: Box<isal_zstream>,
    workspace: Vec<u8>,
}

// SAFETY: the pointers in the stream are to the workspace, which goes with it,
// and to what one call was given, which no other call looks at.
unsafe impl Send for Encoder {}

impl Default for Encoder {
    fn default() -> Encoder {
        Encoder::new()
    }
}

impl Encoder {
    /// An encoder. All its memory is allocated now.
    pub fn new() -> Encoder {
        let mut stream = Box::<isal_zstream>::new_uninit();
        // SAFETY: it is given room for a stream. It sets some of the fields.
        unsafe {
            stream.as_mut_ptr().write_bytes(0, 1);
        }
        // SAFETY: as above.
        unsafe { isal_deflate_stateless_init(stream.as_mut_ptr()) };
        // SAFETY: all of it has been written, and zeros are a value of each
        // field: numbers, null pointers and arrays of numbers.
        let stream = unsafe { stream.assume_init() };
        Encoder { stream, workspace: vec![0; WORKSPACE] }
    }

    /// Appends deflate blocks that hold `block`, of which none is the last, and
    /// which end with a byte. They refer to nothing but `block`, but another encoder
    /// may say the same in other bytes: ISA-L enters the second position of a block
    /// under the hash of its own stream's address (`.write_first_byte` in
    /// `igzip_icf_body_h1_gr_bt.asm` shifts a register that nobody loaded). That may
    /// hide a match from it, and never makes a false one: it compares the bytes.
    ///
    /// # Panics
    /// If `block` has more than 2 GiB, or ISA-L breaks its word.
    pub fn compress(&mut self, block: &[u8], out: &mut Vec<u8>) {
        let room = bound(block.len());
        out.reserve(room);
        let spare = &mut out.spare_capacity_mut()[..room];
        let stream = &mut *self.stream;
        stream.level = LEVEL;
        stream.level_buf = self.workspace.as_mut_ptr();
        stream.level_buf_size = WORKSPACE as u32;
        stream.flush = FULL_FLUSH as u16;
        stream.end_of_stream = 0;
        (stream.total_in, stream.total_out) = (0, 0);
        stream.next_in = block.as_ptr().cast_mut(); // it only reads
        stream.avail_in = u32::try_from(block.len()).expect("a block is small");
        stream.next_out = spare.as_mut_ptr().cast();
        stream.avail_out = u32::try_from(room).expect("a block is small");
        // SAFETY: next_in and next_out are slices of avail_in and avail_out bytes,
        // level_buf one of level_buf_size, and all of them outlive the call.
        let result = unsafe { isal_deflate_stateless(stream) };
        assert!(
            result == COMP_OK as i32 && stream.avail_in == 0,
            "ISA-L: {result} for {} bytes",
            block.len()
        );
        let written = stream.total_out as usize;
        assert!(written <= room, "{written} bytes where {room} had room");
        // SAFETY: so many bytes of the spare capacity have been written.
        unsafe { out.set_len(out.len() + written) };
    }
}

/// The most that a block of so many bytes becomes: all of it stored, in pieces
/// with headers of five bytes, and then the flush.
pub const fn bound(len: usize) -> usize {
    len + 5 * (len / 65535 + 2) + 16
}

#[cfg(test)]
mod tests {
    use flate2::{Decompress, FlushDecompress, Status};
    use proptest::prelude::*;

    use super::*;

    const END: [u8; 2] = [0x03, 0x00];

    fn inflate(stream: &[u8], len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 1);
        let ended = Decompress::new(false).decompress_vec(stream, &mut out, FlushDecompress::Finish);
        assert_eq!(ended.expect("a stream"), Status::StreamEnd);
        out
    }

    /// Runs of zeros, of noise and of words.
    fn runs() -> impl Strategy<Value = Vec<u8>> {
        let run = (0..4u8, 0..100_000usize, any::<u64>()).prop_map(|(kind, len, seed)| -> Vec<u8> {
            let noise = |i: usize| (seed ^ i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
            match kind {
                0 => vec![0; len],
                1 => (0..len).map(|i| noise(i) as u8).collect(),
                2 => b"connection refused by upstream ".iter().copied().cycle().take(len).collect(),
                _ => (0..len / 8).flat_map(|i| (noise(i) >> 44).to_le_bytes()).collect(),
            }
        });
        proptest::collection::vec(run, 0..8).prop_map(|runs| runs.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn blocks_joined_are_one_stream_of_what_went_in(data in runs(), block in 1..300_000usize) {
            let (mut one, mut two) = (Encoder::new(), Encoder::new());
            let mut stream = Vec::new();
            for (n, block) in data.chunks(block).enumerate() {
                let mut out = Vec::new();
                // Whoever did what before, it makes no difference.
                let encoder = if n % 3 == 0 { &mut one } else { &mut two };
                encoder.compress(block, &mut out);
                prop_assert!(out.len() <= bound(block.len()));
                stream.extend(&out);
                out.extend(END);
                prop_assert!(inflate(&out, block.len()) == block);
            }
            stream.extend(END);
            prop_assert!(inflate(&stream, data.len()) == data);
        }
    }

    #[test]
    fn blocks_of_any_length_fit_into_their_bound() {
        let mut encoder = Encoder::new();
        let noise: Vec<u8> =
            (0..200_000u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 29) as u8).collect();
        for len in (0..300).chain(65_500..65_600).chain([131_069, 131_070, 131_071, 200_000]) {
            let mut out = Vec::new();
            encoder.compress(&noise[..len], &mut out);
            assert!(out.len() <= bound(len), "{len}");
            out.extend(END);
            assert!(inflate(&out, len) == noise[..len], "{len}");
        }
    }
}
