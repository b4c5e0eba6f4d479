//! Which known name was probably meant.

/// The name of `names` that is nearest to `name`, when it is near enough to be a typing error.
pub(super) fn nearest(name: &str, names: impl IntoIterator<Item = String>) -> Option<String> {
    let limit = (name.len() / 4).clamp(1, 4);
    let last = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
    let wanted = last(name);
    let ranked = names.into_iter().filter_map(|known| {
        let distance = distance(name, &known);
        // The right key in the wrong table is a mistake people make too.
        let moved = last(&known) == wanted;
        (distance <= limit || moved).then_some((!moved, distance, known))
    });
    ranked.min().map(|(_, _, known)| known)
}

/// Insertions, deletions, replacements and swaps of neighbours that make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                if swapped {
                    best.min(rows[i - 2][j - 2] + 1)
                } else {
                    best
                }
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: Option<&str>) {
        let names = [
            "server.bind",
            "operator.bind",
            "server.ping_interval",
            "log.level",
        ];
        assert_eq!(nearest(name, names.map(String::from)).as_deref(), expected);
    }

    #[test]
    fn typing_errors_and_wrong_tables_are_seen() {
        check("server.bnid", Some("server.bind"));
        check("server.ping_intervall", Some("server.ping_interval"));
        check("upstream.ping_interval", Some("server.ping_interval"));
        check("sever.bind", Some("server.bind"));
        check("log.lvel", Some("log.level"));
        check("server.nothing_like_it", None);
    }
}
