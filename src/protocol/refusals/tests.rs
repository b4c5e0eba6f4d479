#![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

use serde_json::Value;

use super::super::InvalidMessage;
use super::*;
use crate::ids::SessionId;

#[track_caller]
fn check(problem: &Problem, error: &str, close_code: u16, status: u16, retryable: bool) {
    let seen = (
        &*problem.error,
        problem.close_code,
        problem.status,
        problem.retryable,
    );
    assert_eq!(seen, (error, close_code, status, retryable));
    assert!(
        problem.message.ends_with('.') && !problem.message.is_empty(),
        "{problem:?}"
    );
    let frame: Value = serde_json::from_str(&problem.to_frame(SessionId::random())).unwrap();
    assert_eq!(frame["code"], close_code);
}

#[test]
fn every_refusal_has_its_name_code_and_status() {
    check(&Problem::not_found(), "not_found", 1008, 404, false);
    check(
        &Problem::invalid_request("Do."),
        "invalid_request",
        1008,
        400,
        false,
    );
    check(
        &Problem::repeated_parameter(),
        "invalid_request",
        1008,
        400,
        false,
    );
    check(
        &Problem::upgrade_required(),
        "upgrade_required",
        1008,
        426,
        false,
    );
    check(
        &Problem::headers_too_large(),
        "headers_too_large",
        1008,
        431,
        false,
    );
    let invalid = Problem::invalid_input_message(InvalidMessage::KeyTwice);
    check(&invalid, "invalid_input_message", 1008, 400, false);
    check(
        &Problem::binary_message(),
        "invalid_input_message",
        1003,
        400,
        false,
    );
    check(
        &Problem::message_too_big(65_536),
        "message_too_big",
        1009,
        413,
        false,
    );
    check(
        &Problem::needs_authorization(),
        "needs_authorization",
        1008,
        401,
        false,
    );
    check(
        &Problem::invalid_api_key(),
        "invalid_api_key",
        1008,
        401,
        false,
    );
    check(&Problem::token_expired(), "token_expired", 1008, 401, false);
    check(&Problem::token_revoked(), "token_revoked", 1008, 401, false);
    check(
        &Problem::origin_not_allowed(),
        "origin_not_allowed",
        1008,
        403,
        false,
    );
    check(
        &Problem::host_not_allowed(),
        "host_not_allowed",
        1008,
        403,
        false,
    );
    check(
        &Problem::voice_not_allowed(),
        "voice_not_allowed",
        1008,
        403,
        false,
    );
    check(
        &Problem::model_not_allowed(),
        "model_not_allowed",
        1008,
        403,
        false,
    );
    let format = Problem::output_format_not_allowed();
    check(&format, "output_format_not_allowed", 1008, 403, false);
    let quota = Problem::quota_exceeded("Spent.".into(), Some(7));
    check(&quota, "quota_exceeded", 1008, 429, true);
    check(
        &Problem::quota_exceeded("Spent.".into(), None),
        "quota_exceeded",
        1008,
        429,
        false,
    );
    let slots = Problem::too_many_concurrent_requests(3);
    check(&slots, "too_many_concurrent_requests", 1008, 429, true);
    check(
        &Problem::rate_limit_exceeded(),
        "rate_limit_exceeded",
        1008,
        429,
        true,
    );
    let idle = Problem::input_timeout_exceeded(Duration::from_secs(20));
    check(&idle, "input_timeout_exceeded", 1008, 408, true);
    check(
        &Problem::session_expired(),
        "session_expired",
        1008,
        408,
        true,
    );
    check(&Problem::slow_consumer(), "slow_consumer", 1008, 408, true);
    check(
        &Problem::upstream_unavailable(),
        "upstream_unavailable",
        1011,
        502,
        true,
    );
    check(
        &Problem::upstream_disconnected(),
        "upstream_disconnected",
        1011,
        502,
        true,
    );
    check(
        &Problem::upstream_auth_failed(),
        "upstream_auth_failed",
        1011,
        502,
        false,
    );
    check(
        &Problem::upstream_quota_exceeded(),
        "upstream_quota_exceeded",
        1011,
        502,
        false,
    );
    check(&Problem::system_busy(), "system_busy", 1013, 503, true);
    check(
        &Problem::service_restart(),
        "service_restart",
        1012,
        503,
        true,
    );
}

#[test]
fn the_timeout_is_told_in_elevenlabs_words() {
    let opening = |limit| {
        let message = Problem::input_timeout_exceeded(limit).message.into_owned();
        message[..message.find(" seconds").unwrap()].to_owned()
    };
    let words = "Have not received a new text input within the timeout of";
    assert_eq!(opening(Duration::from_secs(20)), format!("{words} 20.0"));
    assert_eq!(opening(Duration::from_secs(180)), format!("{words} 180.0"));
    assert_eq!(opening(Duration::from_millis(1500)), format!("{words} 1.5"));
}

#[track_caller]
fn refused(
    status: u16,
    body: &str,
    error: &str,
    close_code: u16,
    seen_status: u16,
    retryable: bool,
) {
    let problem = Problem::from_upstream(status, body.as_bytes(), &Secrets::default());
    check(&problem, error, close_code, seen_status, retryable);
}

#[test]
fn what_upstream_refuses_is_told_to_whom_it_concerns() {
    let body = |code: &str| format!(r#"{{"detail":{{"code":"{code}","message":"So it is."}}}}"#);
    refused(
        400,
        &body("unsupported_model"),
        "unsupported_model",
        1008,
        400,
        false,
    );
    refused(
        404,
        &body("voice_not_found"),
        "voice_not_found",
        1008,
        404,
        false,
    );
    refused(
        403,
        &body("output_format_not_allowed"),
        "output_format_not_allowed",
        1008,
        403,
        false,
    );
    refused(
        400,
        &body("invalid_api_key"),
        "upstream_auth_failed",
        1011,
        502,
        false,
    );
    refused(
        401,
        &body("missing_permissions"),
        "upstream_auth_failed",
        1011,
        502,
        false,
    );
    refused(401, "", "upstream_auth_failed", 1011, 502, false);
    refused(403, "{}", "upstream_auth_failed", 1011, 502, false);
    refused(
        401,
        &body("detected_unusual_activity"),
        "detected_unusual_activity",
        1011,
        401,
        false,
    );
    refused(
        401,
        &body("quota_exceeded"),
        "upstream_quota_exceeded",
        1011,
        502,
        false,
    );
    refused(
        402,
        &body("paid_plan_required"),
        "paid_plan_required",
        1011,
        402,
        false,
    );
    refused(
        429,
        &body("concurrent_limit_exceeded"),
        "concurrent_limit_exceeded",
        1011,
        429,
        true,
    );
    refused(500, "<html>", "upstream_error", 1011, 500, true);
    refused(503, &body("system_busy"), "system_busy", 1011, 503, true);
    refused(307, "", "upstream_unavailable", 1011, 502, true);
    refused(200, "", "upstream_unavailable", 1011, 502, true);
}

#[test]
fn both_wires_carry_the_same_words() {
    let request = SessionId::parse("0123456789abcdef").unwrap();
    let problem = Problem::system_busy().retry_after(3);
    let frame: Value = serde_json::from_str(&problem.to_frame(request)).unwrap();
    assert_eq!(
        frame,
        serde_json::json!({
            "message": problem.message, "error": "system_busy", "code": 1013,
            "source": "relay", "retryable": true, "retry_after": 3,
            "request_id": "0123456789abcdef",
        })
    );
    let body: Value = serde_json::from_str(&Problem::not_found().to_body(request)).unwrap();
    assert_eq!(
        body,
        serde_json::json!({ "detail": {
            "type": "not_found", "code": "not_found", "status": "not_found",
            "message": Problem::not_found().message, "request_id": "0123456789abcdef",
        }})
    );
}
