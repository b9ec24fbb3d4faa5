//! An image made on the spot: no registry has to be asked for it.

use std::env::consts::ARCH;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// The first process of each pod.
pub(super) const PAUSE: &str = "localhost/pause:latest";
/// What crashes.
pub(super) const CRASHER: &str = "localhost/crasher:latest";

/// An archive with both of them, for `ctr images import`: a layer with one
/// static program, to be started in two ways. It is an OCI image layout.
pub(super) fn archive(crasher: &Path) -> Vec<u8> {
    let program = fs::read(crasher).unwrap_or_else(|err| panic!("reading {}: {err}", crasher.display()));
    let mut layer = Builder::new(Vec::new());
    add(&mut layer, "crasher", &program, 0o755);
    let layer = layer.into_inner().expect("a tar in memory");

    let mut archive = Archive(Builder::new(Vec::new()));
    let layer = archive.blob("application/vnd.oci.image.layer.v1.tar", &layer);
    let images = [(PAUSE, &["/crasher", "--pause"][..]), (CRASHER, &["/crasher"])];
    let manifests = images.map(|(name, entrypoint)| archive.image(name, entrypoint, &layer));
    let index = json!({ "schemaVersion": 2, "manifests": manifests });
    add(&mut archive.0, "index.json", index.to_string().as_bytes(), 0o644);
    add(&mut archive.0, "oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#, 0o644);
    archive.0.into_inner().expect("a tar in memory")
}

struct Archive(Builder<Vec<u8>>);

impl Archive {
    /// Adds an image and returns its line in the index.
    fn image(&mut self, name: &str, entrypoint: &[&str], layer: &Value) -> Value {
        let config = json!({
            "architecture": match ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
            "os": "linux",
            "config": { "Entrypoint": entrypoint, "Env": ["PATH=/"] },
            // Of the layer uncompressed, which it is.
            "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
        });
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer] });
        let mut manifest = self.blob(media_type, manifest.to_string().as_bytes());
        manifest["annotations"] = json!({ "io.containerd.image.name": name });
        manifest
    }

    /// Adds bytes under the name that their digest gives them.
    fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        add(&mut self.0, &format!("blobs/sha256/{digest}"), bytes, 0o644);
        json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len() })
    }
}

fn add(tar: &mut Builder<Vec<u8>>, name: &str, bytes: &[u8], mode: u32) {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, name, bytes).expect("a tar in memory");
}
