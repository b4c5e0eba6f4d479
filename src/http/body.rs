//! Reading a request's body, bounded in size and time.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use crate::protocol::Problem;

/// The whole body, of at most `max_bytes`, if it comes within `timeout`.
///
/// # Errors
/// 413, 408, or 400 for a body that breaks off.
pub(super) async fn read(
    body: Body,
    max_bytes: usize,
    timeout: Duration,
) -> Result<Bytes, Problem> {
    let announced = hyper::body::Body::size_hint(&body).lower();
    if announced > max_bytes as u64 {
        return Err(Problem::message_too_big(max_bytes as u64));
    }
    match tokio::time::timeout(timeout, Limited::new(body, max_bytes).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Problem::message_too_big(max_bytes as u64))
        }
        Ok(Err(_)) => Err(Problem::invalid_request(
            "The request body broke off; send it whole.",
        )),
        Err(_) => Err(Problem {
            status: 408,
            ..Problem::invalid_request("The request body took too long; send it in one go.")
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_body_may_be_as_long_as_the_limit_and_no_longer() {
        let read = async |text: &'static str| read(Body::from(text), 4, TIMEOUT).await;
        assert_eq!(read("").await, Ok(Bytes::new()));
        assert_eq!(read("1234").await, Ok(Bytes::from("1234")));
        assert_eq!(read("12345").await, Err(Problem::message_too_big(4)));
    }

    #[tokio::test]
    async fn a_body_of_unannounced_length_is_bounded_too() {
        let pieces = futures_util::stream::repeat_with(|| Ok::<_, Infallible>("123"));
        let read = read(Body::from_stream(pieces), 4, TIMEOUT).await;
        assert_eq!(read, Err(Problem::message_too_big(4)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let pieces = futures_util::stream::pending::<Result<Bytes, Infallible>>();
        let read = read(Body::from_stream(pieces), 4, TIMEOUT).await;
        assert_eq!(read.map_err(|problem| problem.status), Err(408));
    }
}
