//! Which builds are given the recorded profile, and that no other is changed by it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A compiler that says its version, or else what it was called with.
const COMPILER: &str = "#!/bin/sh\n\
    if [ \"$1\" = -vV ]; then printf 'rustc 1.95.0\\nhost: here\\nrelease: 1.95.0\\nLLVM version: 22\\n'\n\
    else printf '%s\\n' \"$@\"; fi\n";

const OPTIMIZED: [&str; 4] = ["--crate-name", "a crate", "-C", "opt-level=3"];

struct Wrapper(TempDir);

impl Wrapper {
    /// The wrapper, with a compiler and a profile called `profile` beside it.
    fn new(profile: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cargo/rustc-with-profile");
        fs::copy(source, dir.path().join("wrapper")).unwrap();
        let compiler = dir.path().join("rustc");
        fs::write(&compiler, COMPILER).unwrap();
        fs::set_permissions(&compiler, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("profile")).unwrap();
        fs::write(dir.path().join("profile").join(profile), "").unwrap();
        Self(dir)
    }

    /// What the compiler is called with when cargo asks for `args`.
    fn passes_on(&self, args: &[&str]) -> Vec<String> {
        // Started by the shell: a file that was written a moment ago may still be open in a process
        // that another test has just forked, and then the system does not execute it.
        let output = Command::new("sh")
            .arg(self.0.path().join("wrapper"))
            .arg(self.0.path().join("rustc"))
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let lines = String::from_utf8(output.stdout).unwrap();
        lines.lines().map(str::to_owned).collect()
    }
}

#[test]
fn an_optimized_build_has_the_profile_of_its_compiler() {
    let wrapper = Wrapper::new("1.95.0-here.profdata");
    let passed = wrapper.passes_on(&OPTIMIZED);
    assert_eq!(passed[..4], OPTIMIZED);
    let profile = wrapper.0.path().join("profile/1.95.0-here.profdata");
    assert_eq!(passed[4], format!("-Cprofile-use={}", profile.display()));
}

#[test]
fn every_other_build_is_left_alone() {
    let wrapper = Wrapper::new("1.95.0-here.profdata");
    let unoptimized = ["--crate-name", "a crate", "-C", "debuginfo=1"];
    let elsewhere = [&OPTIMIZED[..], &["--target", "there"]].concat();
    for args in [&unoptimized[..], &elsewhere] {
        assert_eq!(wrapper.passes_on(args), args);
    }
    for profile in ["1.94.0-here.profdata", "1.95.0-there.profdata"] {
        assert_eq!(Wrapper::new(profile).passes_on(&OPTIMIZED), OPTIMIZED);
    }
}
