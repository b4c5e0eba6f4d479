//! What a client sees of its own window, in the shape of ElevenLabs' subscription (ElevenLabs API
//! reference, "Get user subscription"), so that apps that show "characters left" keep working.

use serde::Serialize;

use super::{Limits, Quota, Refusal};
use crate::ids::ClientId;
use crate::usage::{Unit, WindowKey};

/// Shown as the limit of a plan without any window: the largest that fits 32-bit clients.
const UNLIMITED: u64 = i32::MAX as u64;

/// The body of `GET /v1/user/subscription`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "the shape is ElevenLabs'")]
pub struct Subscription {
    /// The plan's name.
    pub tier: String,
    /// Characters (or credits, where the plan counts only those) used in the current window.
    pub character_count: u64,
    /// The window's limit.
    pub character_limit: u64,
    /// When it resets; `null` without a window.
    pub next_character_count_reset_unix: Option<i64>,
    /// Always `active`.
    pub status: &'static str,
    #[allow(missing_docs, reason = "always nothing")]
    pub max_character_limit_extension: Option<u64>,
    #[allow(missing_docs, reason = "always no")]
    pub can_extend_character_limit: bool,
    #[allow(missing_docs, reason = "always no")]
    pub allowed_to_extend_character_limit: bool,
    #[allow(missing_docs, reason = "always none")]
    pub voice_slots_used: u64,
    #[allow(missing_docs, reason = "always none")]
    pub professional_voice_slots_used: u64,
    #[allow(missing_docs, reason = "always none")]
    pub voice_limit: u64,
    #[allow(missing_docs, reason = "always none")]
    pub voice_add_edit_counter: u64,
    #[allow(missing_docs, reason = "always none")]
    pub professional_voice_limit: u64,
    #[allow(missing_docs, reason = "always no")]
    pub can_extend_voice_limit: bool,
    #[allow(missing_docs, reason = "always no")]
    pub can_use_instant_voice_cloning: bool,
    #[allow(missing_docs, reason = "always no")]
    pub can_use_professional_voice_cloning: bool,
    #[allow(missing_docs, reason = "always no")]
    pub has_open_invoices: bool,
    #[allow(missing_docs, reason = "always none")]
    pub open_invoices: [u64; 0],
}

/// The body of `GET /v1/user`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "the shape is ElevenLabs'")]
pub struct User {
    /// The client's id.
    pub user_id: String,
    /// As in [`Subscription`].
    pub subscription: Subscription,
    #[allow(missing_docs, reason = "always no")]
    pub is_new_user: bool,
    #[allow(missing_docs, reason = "always no")]
    pub can_use_delayed_payment_methods: bool,
    #[allow(missing_docs, reason = "always yes")]
    pub is_onboarding_completed: bool,
    #[allow(missing_docs, reason = "always yes")]
    pub is_onboarding_checklist_completed: bool,
}

impl Quota {
    /// The client's longest window, in characters if the plan has one, else in credits. What its
    /// sessions in this process hold unspent is not counted as used.
    ///
    /// # Errors
    /// [`Refusal::StoreUnavailable`].
    pub async fn subscription(
        &self,
        client: &ClientId,
        limits: &Limits,
    ) -> Result<Subscription, Refusal> {
        let of_unit = |unit: Unit| {
            let windows = limits
                .windows()
                .iter()
                .filter(move |window| window.unit == unit);
            windows.max_by_key(|window| window.per)
        };
        let window = of_unit(Unit::Characters).or_else(|| of_unit(Unit::Credits));
        let (count, limit, reset) = match window {
            None => (0, UNLIMITED, None),
            Some(window) => {
                let key = WindowKey::at(window.unit, window.per, self.inner.now_ms());
                let used = self.inner.books.used(client, &[key]).await;
                let used = used
                    .map_err(|_| Refusal::StoreUnavailable)
                    .inspect_err(|refusal| self.note_refusal(refusal))?;
                let used = used.first().copied().unwrap_or(0);
                let held = self
                    .inner
                    .clients
                    .get(client)
                    .map_or(0, |client| client.held_of(key));
                let used = used.saturating_sub(held);
                let shown = if window.unit == Unit::Credits {
                    used.div_ceil(1000)
                } else {
                    used
                };
                (shown, window.limit, Some(key.end()))
            }
        };
        Ok(Subscription {
            tier: limits.plan.as_ref().to_owned(),
            character_count: count,
            character_limit: limit,
            next_character_count_reset_unix: reset,
            status: "active",
            max_character_limit_extension: None,
            can_extend_character_limit: false,
            allowed_to_extend_character_limit: false,
            voice_slots_used: 0,
            professional_voice_slots_used: 0,
            voice_limit: 0,
            voice_add_edit_counter: 0,
            professional_voice_limit: 0,
            can_extend_voice_limit: false,
            can_use_instant_voice_cloning: false,
            can_use_professional_voice_cloning: false,
            has_open_invoices: false,
            open_invoices: [],
        })
    }

    /// What `GET /v1/user` answers.
    ///
    /// # Errors
    /// [`Refusal::StoreUnavailable`].
    pub async fn user(&self, client: &ClientId, limits: &Limits) -> Result<User, Refusal> {
        Ok(User {
            user_id: client.as_str().to_owned(),
            subscription: self.subscription(client, limits).await?,
            is_new_user: false,
            can_use_delayed_payment_methods: false,
            is_onboarding_completed: true,
            is_onboarding_checklist_completed: true,
        })
    }
}
