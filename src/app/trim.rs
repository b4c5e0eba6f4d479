//! Lets go of memory that only the start has needed.

/// Unmaps the pages of the program's own code. What runs from here on is mapped again as it is
/// called, from the page cache and without reading the disk; arguments, configuration, certificates
/// and the making of tables, more than half of what is mapped by now, are not needed again.
#[cfg(target_os = "linux")]
pub(super) fn let_go_of_code() {
    // Where it cannot be told which pages they are, they stay.
    let _ = (|| {
        let program = std::fs::read_link("/proc/self/exe").ok()?;
        let maps = std::fs::read_to_string("/proc/self/smaps").ok()?;
        for (start, len) in code(&maps, program.to_str()?) {
            unmap(start, len);
        }
        Some(())
    })();
}

#[cfg(not(target_os = "linux"))]
pub(super) fn let_go_of_code() {}

/// Start and length of each mapping of `program` that is code: readable, executable, private, and as
/// it is in the file. What a debugger or a loader has written into it would be gone.
#[cfg(target_os = "linux")]
fn code<'a>(maps: &'a str, program: &'a str) -> impl Iterator<Item = (usize, usize)> + 'a {
    let mut lines = maps.lines();
    std::iter::from_fn(move || {
        loop {
            let Some((start, len)) = mapped_code(lines.next()?, program) else {
                continue;
            };
            let dirty = lines.find_map(|line| line.strip_prefix("Private_Dirty:"))?;
            if dirty.trim() == "0 kB" {
                return Some((start, len));
            }
        }
    })
}

/// Start and length, if this is the first line of such a mapping.
#[cfg(target_os = "linux")]
fn mapped_code(line: &str, program: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, access) = (fields.next()?, fields.next()?);
    // The path is the sixth field and may hold spaces.
    if access != "r-xp" || !line.ends_with(&format!(" {program}")) {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    Some((start, end.checked_sub(start)?))
}

#[cfg(target_os = "linux")]
fn unmap(start: usize, len: usize) {
    let address = std::ptr::with_exposed_provenance_mut(start);
    #[expect(
        unsafe_code,
        reason = "the range is a private mapping of a file that nothing has written to, so each page is \
                  read again, with the same content, when it is needed (madvise(2), MADV_DONTNEED)"
    )]
    // A kernel that refuses keeps the pages, and nothing else changes.
    let _ = unsafe { libc::madvise(address, len, libc::MADV_DONTNEED) };
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn code_is_what_is_executable_of_the_program_itself() {
        let mapping = |range: &str, access: &str, path: &str, dirty: u32| {
            format!(
                "{range} {access} 00000000 08:01 77 {path}\n\
                 Size:               2048 kB\n\
                 Private_Clean:       128 kB\n\
                 Private_Dirty:    {dirty:>6} kB\n\
                 VmFlags: rd ex mr mw me\n"
            )
        };
        let relay = "/opt/my relay/xi-relay";
        let maps = [
            mapping("55d0a0000000-55d0a0200000", "r--p", relay, 0),
            mapping("55d0a0200000-55d0a0d00000", "r-xp", relay, 0),
            mapping("55d0a0d00000-55d0a0d10000", "r-xp", relay, 4),
            mapping("55d0a0d10000-55d0a0e00000", "rw-p", relay, 32),
            mapping("7f0000000000-7f0000100000", "r-xp", "/lib/libc.so.6", 0),
            mapping("7f0000200000-7f0000300000", "r-xp", "[vdso]", 0),
        ]
        .concat();
        let found: Vec<_> = code(&maps, relay).collect();
        assert_eq!(found, [(0x55d0_a020_0000, 0xb0_0000)]);
    }

    #[test]
    fn code_that_was_let_go_of_still_runs() {
        let_go_of_code();
        assert_eq!("12".parse(), Ok(12));
    }
}
