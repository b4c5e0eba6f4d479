//! Voices, models, the account, single-use tokens.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::model::{self, Model, Socket};
use super::query::{self, Query};
use super::refusal::Refusal;
use super::server::{self, Sandbox};

/// The voices that are listed. Others exist too: see [`super::fault::check_voice`].
const VOICES: [(&str, &str); 7] = [
    ("AdaTone0000000000001", "Ada"),
    ("BasilTone00000000002", "Basil"),
    ("CleoTone000000000003", "Cleo"),
    ("DuncanTone0000000004", "Duncan"),
    ("EstherTone0000000005", "Esther"),
    ("FelixTone00000000006", "Felix"),
    // A voice that every account of ElevenLabs has, so that examples made there work here.
    ("JBFqnCBsd6RMkjVDRZzb", "George"),
];

fn answer(sandbox: &Sandbox, request: &Request, body: impl FnOnce(&Query) -> Value) -> Response {
    let query = Query::parse(request.uri().query());
    let credential = query::credential(request.headers(), &query);
    match sandbox.account.judge(credential.as_ref()) {
        Ok(()) => server::json(StatusCode::OK, body(&query).to_string()),
        Err(refusal) => refusal.response(),
    }
}

pub(super) async fn voices(State(sandbox): State<Sandbox>, request: Request) -> Response {
    answer(
        &sandbox,
        &request,
        |_| json!({ "voices": VOICES.iter().map(voice).collect::<Vec<_>>() }),
    )
}

pub(super) async fn voices_page(State(sandbox): State<Sandbox>, request: Request) -> Response {
    answer(&sandbox, &request, page)
}

fn page(query: &Query) -> Value {
    let search = query.get("search").unwrap_or_default().to_lowercase();
    let mut found: Vec<_> = VOICES
        .iter()
        .filter(|(_, name)| name.to_lowercase().contains(&search))
        .collect();
    if query.get("sort_direction") == Some("desc") {
        found.reverse();
    }
    // The token is the id of the first voice of the page.
    let token = query.get("next_page_token");
    let start = found
        .iter()
        .position(|(id, _)| Some(*id) == token)
        .unwrap_or_default();
    // The documented minimum is 10, which would never give these few voices a second page.
    let size = query.number("page_size").unwrap_or(10).clamp(1, 100) as usize;
    let next = found.get(start + size).map(|(id, _)| *id);
    json!({
        "voices": found.iter().skip(start).take(size).copied().map(voice).collect::<Vec<_>>(),
        "has_more": next.is_some(),
        "total_count": found.len(),
        "next_page_token": next,
    })
}

fn voice((id, name): &(&str, &str)) -> Value {
    json!({
        "voice_id": id,
        "name": name,
        "category": "premade",
        "description": "A tone voice of the sandbox.",
        "labels": { "language": "en", "use_case": "testing" },
        "preview_url": null,
        "samples": null,
        "available_for_tiers": [],
        "high_quality_base_model_ids": ["eleven_multilingual_v2", "eleven_flash_v2_5"],
        "settings": {
            "stability": 0.5,
            "similarity_boost": 0.75,
            "style": 0.0,
            "use_speaker_boost": true,
            "speed": 1.0,
        },
        "is_owner": false,
        "is_legacy": false,
        "created_at_unix": null,
    })
}

pub(super) async fn models(State(sandbox): State<Sandbox>, request: Request) -> Response {
    answer(&sandbox, &request, |_| {
        model::ALL.iter().map(describe).collect()
    })
}

fn describe(model: &Model) -> Value {
    let is_dialogue = matches!(model.socket, Socket::Dialogue { .. });
    let factor = model.halves_per_character as f64 / 2.0;
    json!({
        "model_id": model.id,
        "name": model.name,
        "description": format!("{}, as the sandbox speaks it.", model.name),
        "can_be_finetuned": false,
        "can_do_text_to_speech": true,
        "can_do_voice_conversion": false,
        "can_use_style": !is_dialogue,
        "can_use_speaker_boost": !is_dialogue,
        "serves_pro_voices": false,
        "requires_alpha_access": false,
        "token_cost_factor": factor,
        "maximum_text_length_per_request": model.max_chars,
        "max_characters_request_free_user": model.max_chars,
        "max_characters_request_subscribed_user": model.max_chars,
        "languages": [{ "language_id": "en", "name": "English" }],
        "model_rates": { "character_cost_multiplier": factor, "cost_discount_multiplier": 1.0 },
        "concurrency_group": if factor < 1.0 { "turbo" } else { "standard" },
    })
}

pub(super) async fn subscription(State(sandbox): State<Sandbox>, request: Request) -> Response {
    answer(&sandbox, &request, |_| subscription_of(&sandbox))
}

pub(super) async fn user(State(sandbox): State<Sandbox>, request: Request) -> Response {
    answer(&sandbox, &request, |_| {
        json!({
            "user_id": "sandbox",
            "subscription": subscription_of(&sandbox),
            "subscription_extras": null,
            "is_new_user": false,
            "xi_api_key": null,
            "xi_api_key_preview": null,
            "can_use_delayed_payment_methods": false,
            "is_onboarding_completed": true,
            "is_onboarding_checklist_completed": true,
            "first_name": "Sandbox",
            "is_api_key_hashed": true,
            "created_at": 0,
        })
    })
}

fn subscription_of(sandbox: &Sandbox) -> Value {
    const A_DAY: u64 = 24 * 60 * 60;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    json!({
        "tier": "sandbox",
        "status": "active",
        "character_count": sandbox.account.spent(),
        "character_limit": sandbox.account.limit(),
        "max_character_limit_extension": null,
        "can_extend_character_limit": false,
        "allowed_to_extend_character_limit": false,
        "next_character_count_reset_unix": (now / A_DAY + 1) * A_DAY,
        "voice_slots_used": VOICES.len(),
        "professional_voice_slots_used": 0,
        "voice_limit": 160,
        "max_voice_add_edits": 0,
        "voice_add_edit_counter": 0,
        "professional_voice_limit": 0,
        "can_extend_voice_limit": false,
        "can_use_instant_voice_cloning": false,
        "can_use_professional_voice_cloning": false,
        "currency": null,
        "billing_period": null,
        "character_refresh_period": null,
        "current_overage": { "amount": "0", "currency": "usd" },
        "next_invoice": null,
        "open_invoices": [],
        "has_open_invoices": false,
    })
}

pub(super) async fn single_use_token(State(sandbox): State<Sandbox>, request: Request) -> Response {
    if request
        .uri()
        .query()
        .is_some_and(|query| query.contains("single_use_token="))
    {
        // Or one token would breed the next.
        return Refusal::NEEDS_AUTHORIZATION.response();
    }
    answer(
        &sandbox,
        &request,
        |_| json!({ "token": sandbox.account.mint() }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_one_another() {
        let first = page(&Query::parse(Some("page_size=4")));
        assert_eq!(first["voices"].as_array().map(Vec::len), Some(4));
        assert_eq!(first["has_more"], true);
        let token = first["next_page_token"].as_str().unwrap_or_default();
        let second = page(&Query::parse(Some(&format!(
            "page_size=4&next_page_token={token}"
        ))));
        assert_eq!(second["voices"].as_array().map(Vec::len), Some(3));
        assert_eq!(
            (&second["has_more"], &second["total_count"]),
            (&json!(false), &json!(7))
        );
        let found = page(&Query::parse(Some("search=CLEO")));
        assert_eq!(found["voices"][0]["name"], "Cleo");
    }
}
