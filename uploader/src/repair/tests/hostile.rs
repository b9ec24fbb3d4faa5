//! What a composer that was anybody's may have left.

use std::io::Read;

use proptest::prelude::*;
use zip::ZipArchive;

use super::super::*;
use super::sample::{ID, bytes_of, file_of, id, sample};
use crate::strange;

/// Dumps of which the composer died at different times.
fn torn_dumps() -> Vec<Vec<u8>> {
    let of = |method| {
        let stream = sample(method);
        let (complete, _) = stream.complete();
        [bytes_of(&stream.begun(&stream.bytes)), bytes_of(&complete)]
    };
    [Method::Deflated, Method::Stored].into_iter().flat_map(of).collect()
}

proptest! {
    #[test]
    fn whatever_a_composer_left_becomes_what_it_says_or_nothing(bytes in strange::changed(torn_dumps())) {
        let file = file_of(&bytes);
        if let Ok(manifest) = mend(&file, &id(), &CancellationToken::new()).unwrap() {
            let mut zip = ZipArchive::new(&file).unwrap();
            let mut core = Vec::new();
            zip.by_name(&format!("{ID}/{CORE}")).unwrap().read_to_end(&mut core).unwrap();
            prop_assert_eq!(core.len() as u64, manifest.core.bytes);
            prop_assert_eq!(format!("{:08x}", crc32fast::hash(&core)), &*manifest.core.crc32);
            let (_, written) = read_manifest(&file, &id()).unwrap();
            prop_assert_eq!(written, manifest);
        }
    }
}
