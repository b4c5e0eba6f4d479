//! Lines as they leave the layer.

#![allow(clippy::unwrap_used, reason = "a failed test is the point")]

use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber, debug, error, info, warn};

use super::*;
use crate::ids::SessionId;

struct Out(Sender<Vec<u8>>);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The test may have what it wants and be gone.
        let _ = self.0.send(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn captured(style: Style, level: &str, events: impl FnOnce()) -> String {
    let (sender, receiver): (_, Receiver<Vec<u8>>) = channel();
    let sink = Sink::start(Out(sender), |_, _| {}).unwrap();
    let config = Config {
        level: level.into(),
        ..Config::default()
    };
    let lines = Lines {
        sink: Arc::clone(&sink),
        style,
        filter: filter(&config, None).unwrap(),
    };
    // With one alone, what another thread logs first is registered without asking this one.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    tracing::subscriber::with_default(lines, events);
    sink.close(Duration::from_secs(10));
    String::from_utf8(receiver.try_iter().flatten().collect()).unwrap()
}

fn json(level: &str, events: impl FnOnce()) -> Vec<Value> {
    let text = captured(Style::Json, level, events);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_message_line_is_flat_and_keeps_the_order_of_its_fields() {
    let text = captured(Style::Json, "info", || {
        info!(
            target: MESSAGE,
            session = "00ff",
            from = "client",
            kind = "text",
            seq = 7u64,
            chars = 5i64,
            absent = None::<u64>,
            late = true,
            share = 0.5,
        );
    });
    let (head, rest) = text.split_at(14);
    assert_eq!(head, "{\"timestamp\":\"");
    assert_eq!(
        &rest[24..],
        "\",\"level\":\"INFO\",\"target\":\"xi_relay::message\",\"session\":\"00ff\",\
         \"from\":\"client\",\"kind\":\"text\",\"seq\":7,\"chars\":5,\"late\":true,\"share\":0.5}\n"
    );
}

/// Logs two messages of one session, the second with all that one can have.
fn two_messages() {
    let session = SessionId::parse("00000000000000ff").unwrap();
    let mut line = MessageLine::new(session, "a \"b\"");
    let seen = Seen {
        from: "client",
        kind: "text",
        seq: 7,
        bytes: 20,
        chars: Some(5),
        since_start_ms: 1234,
        ..Seen::default()
    };
    line.log(seen, None, None, None);
    let seen = Seen {
        from: "upstream",
        kind: "audio",
        chars: None,
        audio_bytes: Some(15),
        audio_ms: Some(u64::MAX),
        ..seen
    };
    line.log(seen, Some("c\n"), Some("e"), Some("t t"));
}

#[test]
fn a_message_has_its_fields_in_one_flat_object() {
    let text = captured(Style::Json, "info", two_messages);
    let rests: Vec<_> = text.lines().map(|line| &line[14 + 24..]).collect();
    let head = r#"","level":"INFO","target":"xi_relay::message","session":"00000000000000ff","client":"a \"b\"","from":"#;
    assert_eq!(
        rests,
        [
            format!(
                r#"{head}"client","kind":"text","seq":7,"bytes":20,"chars":5,"since_start_ms":1234}}"#
            ),
            format!(
                r#"{head}"upstream","kind":"audio","seq":7,"bytes":20,"audio_bytes":15,"audio_ms":18446744073709551615,"since_start_ms":1234,"context":"c\n","error":"e","text":"t t"}}"#
            ),
        ]
    );
}

#[test]
fn a_message_shows_the_same_fields_on_a_terminal() {
    let json = captured(Style::Json, "info", two_messages);
    let pretty = captured(Style::Pretty { colours: false }, "info", two_messages);
    assert_eq!((json.lines().count(), pretty.lines().count()), (2, 2));
    for (json, pretty) in json.lines().zip(pretty.lines()) {
        // As an object of `serde_json` they would be in another order.
        let (_, fields) = json.split_once(r#""target":"xi_relay::message","#).unwrap();
        let names: Vec<_> = fields
            .split(r#"":"#)
            .filter_map(|before| before.rsplit(['"']).next())
            .collect();
        let names = &names[..names.len() - 1];
        let shown: Vec<_> = pretty
            .split('=')
            .filter_map(|before| before.rsplit(' ').next())
            .collect();
        assert_eq!(names, &shown[..shown.len() - 1]);
        let values: Value = serde_json::from_str(json).unwrap();
        for name in names {
            // What has a space is shown in quotes, and no terminal is sent a line break.
            let value = match values[name].as_str() {
                Some(text) if text.contains(' ') => format!("\"{text}\""),
                Some(text) => text.escape_default().to_string(),
                None => values[name].to_string(),
            };
            assert!(pretty.contains(&format!(" {name}={value}")), "{name}");
        }
    }
}

#[test]
fn another_subscriber_sees_a_message_as_text() {
    struct Fields(Sender<String>);
    impl Visit for Fields {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            self.0.send(format!("{field}={value:?}")).unwrap();
        }
    }
    struct Other(Sender<String>);
    impl Subscriber for Other {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn event(&self, event: &Event<'_>) {
            event.record(&mut Fields(self.0.clone()));
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            unreachable!("there are no spans")
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }
    let (sender, receiver) = channel();
    tracing::subscriber::with_default(Other(sender), two_messages);
    let seen: Vec<_> = receiver.try_iter().collect();
    assert_eq!(
        seen[0],
        r#"line=session="00000000000000ff" client="a \"b\"" from="client" kind="text" seq=7 bytes=20 chars=5 since_start_ms=1234"#
    );
    assert_eq!(
        seen[2..],
        [r#"context="c\n""#, r#"error="e""#, r#"text="t t""#]
    );
}

#[test]
fn messages_can_be_turned_off() {
    assert_eq!(json("info,xi_relay::message=off", two_messages).len(), 0);
}

#[test]
fn strings_from_outside_are_escaped_and_cut() {
    let long = "é".repeat(300);
    let lines = json("info", || {
        info!(context = "a\"\\\n\u{1}\u{7f}", r#type = %long, text = long.as_str(), "said");
    });
    assert_eq!(lines[0]["message"], "said");
    assert_eq!(lines[0]["context"], "a\"\\\n\u{1}\u{7f}");
    assert_eq!(lines[0]["type"].as_str().unwrap().len(), 256);
    assert_eq!(lines[0]["text"], long.as_str());
}

#[test]
fn a_field_never_doubles_a_key_of_the_head() {
    let lines = captured(Style::Json, "info", || {
        warn!(level = 1, timestamp = 2, "odd")
    });
    assert_eq!(lines.matches("\"level\":").count(), 1);
    assert!(lines.contains("\"level_\":1,\"timestamp_\":2"));
}

#[test]
fn numbers_that_json_lacks_are_null() {
    let lines = json("info", || {
        info!(a = f64::NAN, b = f64::INFINITY, c = u128::MAX)
    });
    assert!(lines[0]["a"].is_null() && lines[0]["b"].is_null());
    assert!(lines[0]["c"].is_number());
}

#[test]
fn a_debug_that_logs_and_fails_leaves_whole_lines() {
    struct Talks;
    impl std::fmt::Debug for Talks {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            info!("inner");
            f.write_str("half")?;
            Err(std::fmt::Error)
        }
    }
    let lines = json("info", || info!(value = ?Talks, "outer"));
    // Whether `tracing` passes the inner event on depends on how the subscriber was installed.
    let outer = lines
        .iter()
        .find(|line| line["message"] == "outer")
        .unwrap();
    assert_eq!(outer["value"], "half");
}

#[test]
fn dependencies_say_nothing_below_info() {
    let lines = json("trace", || {
        tracing::trace!(target: "hyper::proto::h1", "xi-api-key: canary");
        debug!(target: "xi_relayed", "canary");
        info!(target: "hyper", "kept");
        debug!(target: "xi_relay", "kept");
        debug!("kept");
    });
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line["message"] == "kept"));
}

#[test]
fn message_lines_can_be_turned_off() {
    let lines = json("info, xi_relay::message=off", || {
        info!(target: MESSAGE, seq = 1);
        info!("kept");
    });
    assert_eq!(lines.len(), 1);
}

#[test]
fn a_terminal_line_is_compact() {
    let text = captured(Style::Pretty { colours: false }, "info", || {
        error!(session = "00ff", voice = "two words", plain = "one", why = %"a\nb", "it broke");
    });
    let expected =
        "ERROR log::tests it broke session=00ff voice=\"two words\" plain=one why=a\\nb\n";
    assert_eq!(&text[14..], expected);
    let text = captured(Style::Pretty { colours: true }, "info", || info!("hi"));
    assert!(text.contains("\x1b[32m INFO\x1b[0m"));
}

#[test]
fn dropped_lines_are_told_in_the_shape_of_all_lines() {
    let mut line = Vec::new();
    Style::Json.write_dropped(&mut line, Clock::new().now(), 3);
    let value: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(value["message"], "3 log lines dropped");
    assert_eq!(value["dropped"], 3);
}

#[test]
fn panics_are_told_by_place_and_not_by_words() {
    let before = std::panic::take_hook();
    panic::install();
    let lines = json("info", || {
        let caught = std::panic::catch_unwind(|| std::panic::panic_any("canary".to_owned()));
        assert!(caught.is_err());
    });
    std::panic::set_hook(before);
    let line = lines
        .iter()
        .find(|line| line["target"] == "xi_relay::panic")
        .unwrap();
    assert_eq!(line["file"], file!());
    assert!(!line.to_string().contains("canary"));
}

#[track_caller]
fn check_filter(level: &str, rust_log: Option<&str>, expected: Result<(), &str>) {
    let config = Config {
        level: level.into(),
        ..Config::default()
    };
    match (filter(&config, rust_log.map(Into::into)), expected) {
        (Ok(_), Ok(())) => {}
        (Err(error), Err(part)) => {
            let text = error.to_string();
            assert!(text.contains(part) && !text.contains('\n'), "{text}");
        }
        (got, _) => panic!("{level} {rust_log:?}: {:?}", got.err()),
    }
}

#[test]
fn filters_are_read_or_refused_by_name() {
    check_filter("info", None, Ok(()));
    check_filter("WARN,xi_relay::message=off", None, Ok(()));
    check_filter("info", Some(""), Ok(()));
    check_filter("info", Some("xi_relay=trace,hyper=off"), Ok(()));
    check_filter("inof", None, Err("log.level: `inof`"));
    check_filter("", None, Err("log.level"));
    check_filter("info,a=b=c", None, Err("log.level"));
    check_filter("info", Some("debgu"), Err("RUST_LOG: `debgu`"));
    check_filter("inof", Some("info"), Err("log.level"));
}

#[test]
fn the_format_follows_the_terminal_unless_named() {
    assert_eq!(style(Format::Auto, false), Style::Json);
    assert_eq!(style(Format::Json, true), Style::Json);
    assert!(matches!(style(Format::Auto, true), Style::Pretty { .. }));
    assert_eq!(
        style(Format::Pretty, false),
        Style::Pretty { colours: false }
    );
}
