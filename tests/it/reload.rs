//! SIGHUP: what may change while the relay runs changes at once, or nothing does.

use crate::support::relay::in_front_of;
use crate::support::{PATH, Peer, Request, TestRelay, Upstream, session};

/// Takes the clients away and says that both addresses are loopback now.
#[track_caller]
fn stays_closed(addresses: &str, named: &str) {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, addresses);
    let (mut client, mut conn) = session(&relay, &upstream);

    relay.reload(&[&in_front_of(upstream.address)]);
    let refused = relay.expect_log("the reload is refused", |line| {
        let message = line["message"].as_str().unwrap_or_default();
        assert_ne!(message, "configuration reloaded");
        message.starts_with("configuration not reloaded")
    });
    let cause = refused["cause"].as_str().unwrap();
    for part in ["no clients are configured any more", named] {
        assert!(cause.contains(part), "{part} in {cause}");
    }

    let stranger = Request::upgrade(PATH).with("xi-api-key", "nobody");
    assert_eq!(stranger.send(relay.address).status, 401);
    client.say(r#"{"text":"still here "}"#);
    assert_eq!(conn.hear(), r#"{"text":"still here "}"#);
}

#[test]
fn a_relay_that_others_can_reach_keeps_its_clients_whatever_the_new_addresses_are() {
    stays_closed("[server]\nbind = \"0.0.0.0:0\"\n", "`server.bind`");
    stays_closed("[operator]\nbind = \"0.0.0.0:0\"\n", "`operator.bind`");
}

#[test]
fn a_relay_on_loopback_may_be_opened() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    relay.reload(&[&in_front_of(upstream.address)]);
    relay.expect_log("reloaded", |line| {
        line["message"] == "configuration reloaded"
    });

    let stranger = Request::upgrade(PATH).with("xi-api-key", "nobody");
    let mut client = Peer::dial(relay.address);
    client.write(&stranger.encode());
    upstream.next().accept();
    client.expect_upgraded();
}
