//! Deflate in blocks that know nothing of each other, and joined are one stream.
//!
//! By ISA-L, which is the fastest there is and takes an assembler to build; or,
//! without the feature `isal`, by zlib-rs, which takes nothing.

#[cfg(feature = "isal")]
pub use isal_blocks::Encoder;

#[cfg(not(feature = "isal"))]
pub use zlib::Encoder;

#[cfg(not(feature = "isal"))]
mod zlib {
    use flate2::{Compress, Compression, FlushCompress, Status};

    /// The level. Higher ones hold the crashed process several times as long for
    /// a few percent of size.
    const LEVEL: u32 = 1;

    /// One thread's encoder.
    pub struct Encoder(Compress);

    impl Encoder {
        pub fn new() -> Encoder {
            Encoder(Compress::new(Compression::new(LEVEL), false))
        }

        /// Appends deflate blocks that hold `block`, of which none is the last,
        /// and which end with a byte.
        pub fn compress(&mut self, block: &[u8], out: &mut Vec<u8>) {
            self.0.reset();
            // As zlib's `deflateBound` for memory of any size.
            let len = block.len();
            out.reserve(len + len.div_ceil(8) + len.div_ceil(64) + 64);
            let flushed = self.0.compress_vec(block, out, FlushCompress::Sync);
            let whole = self.0.total_in() == len as u64 && matches!(flushed, Ok(Status::Ok));
            assert!(whole, "there is room for a block of {len} bytes: {flushed:?}");
        }
    }
}
