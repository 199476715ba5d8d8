//! The end of a connection that was answered and is wanted no more.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// How long who was refused may go on sending.
const LINGER_MAX: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 64 * 1024;

/// Says that nothing more comes, and forgets what still comes in. A socket that is closed with bytes
/// unread resets the connection, and the kernel takes the answer back.
pub(super) async fn end<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let drained = async {
        let (mut scrap, mut left) = ([0; 512], LINGER_BYTES_MAX);
        let _ = stream.shutdown().await;
        while left > 0 {
            match stream.read(&mut scrap).await {
                Ok(0) | Err(_) => return,
                Ok(read) => left = left.saturating_sub(read),
            }
        }
    };
    // Who does not leave is left.
    let _ = tokio::time::timeout(LINGER_MAX, drained).await;
}
