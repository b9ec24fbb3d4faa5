//! The block compressors alone: one thread, memory to memory, 256 KiB at a time.
//!
//! `cargo bench --locked -p testbed`; each line ends with bytes per second.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use flate2::{Compress, Compression, FlushCompress};
use testbed::memory::{Fill, Memory};

/// As the composer's pipeline has them.
const BLOCK: usize = 256 << 10;
const BLOCKS: usize = 64;
const FILLS: [Fill; 3] = [Fill::Mixed, Fill::Random, Fill::Zero];

fn main() {
    divan::main();
}

#[divan::bench(args = FILLS)]
fn isal(bencher: Bencher, fill: &Fill) {
    let mut encoder = isal_blocks::Encoder::new();
    measure(bencher, *fill, |block, out| encoder.compress(block, out));
}

/// What the composer has without its feature `isal`.
#[divan::bench(args = FILLS)]
fn zlib_rs(bencher: Bencher, fill: &Fill) {
    let mut encoder = Compress::new(Compression::new(1), false);
    measure(bencher, *fill, |block, out| {
        encoder.reset();
        out.reserve(isal_blocks::bound(block.len()) + block.len() / 8);
        encoder.compress_vec(block, out, FlushCompress::Sync).expect("there is room");
    });
}

fn measure(bencher: Bencher, fill: Fill, mut compress: impl FnMut(&[u8], &mut Vec<u8>)) {
    let mut core = vec![0; BLOCK * BLOCKS];
    Memory { fill, length: core.len() }.read_at(0, &mut core);
    let mut out = Vec::new();
    bencher.counter(BytesCount::of_slice(&core)).bench_local(|| {
        for block in core.chunks(BLOCK) {
            out.clear();
            compress(black_box(block), &mut out);
            black_box(&out);
        }
    });
}
