//! A session's client: blocking, with the types of the `postgres` package, on the engine of that package. Unlike the
//! blocking client there it can send messages before the ones ahead of them are answered.

use std::future::{Future, poll_fn, ready};
use std::io;
use std::ops::{Deref, DerefMut};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{SinkExt, TryStreamExt};
use postgres::error::DbError;
use postgres::tls::{MakeTlsConnect, TlsConnect};
use postgres::types::{ToSql, Type};
use postgres::{Error, Row, SimpleQueryMessage, Socket};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{AsyncMessage, CancelToken, Config, CopyInSink};

/// A session with a server; it ends with this value.
pub struct Client {
    // Dropped in this order: the link says good-bye once nothing more can be asked for.
    session: tokio_postgres::Client,
    link: Link,
}

/// What drives one session, on the thread that uses it.
///
/// # Errors
/// The system has no descriptor or no memory left for it.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

impl Client {
    /// Connects and logs in, driven by what [`runtime`] gives. The server's notices go to `notice` whenever the session
    /// is used.
    ///
    /// # Errors
    /// The engine's.
    pub fn open<T>(
        runtime: Runtime,
        config: &Config,
        tls: T,
        notice: impl Fn(DbError) + Send + 'static,
    ) -> Result<Self, Error>
    where
        T: MakeTlsConnect<Socket>,
        T::Stream: Send + 'static,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let (session, mut connection) = runtime.block_on(config.connect(tls))?;
        let messages: Messages = Box::new(move |cx| connection.poll_message(cx));
        let link = Link { runtime, messages: Some(messages), broken: None, notice: Box::new(notice) };
        Ok(Self { session, link })
    }

    /// Runs statements that are one message, and gives nothing of what they give.
    ///
    /// # Errors
    /// The server's, or the connection's.
    pub fn batch_execute(&mut self, sql: &str) -> Result<(), Error> {
        self.link.wait(self.session.batch_execute(sql))
    }

    /// Runs statements that are one message; what they give comes as text.
    ///
    /// # Errors
    /// The server's, or the connection's.
    pub fn simple_query(&mut self, sql: &str) -> Result<Vec<SimpleQueryMessage>, Error> {
        self.link.wait(self.session.simple_query(sql))
    }

    /// Sends messages at once, each one by itself as [`Client::simple_query`] would, and gives the answer to the last.
    /// `answered` hears of each that went well, by its number from 0, until one fails. All are answered when this returns:
    /// a failure does not keep the server from the messages behind it, unless the transaction that it ends is theirs too.
    ///
    /// # Errors
    /// The number of the first message that failed, and how.
    pub fn pipeline(
        &mut self,
        messages: &[&str],
        mut answered: impl FnMut(usize),
    ) -> Result<Vec<SimpleQueryMessage>, (usize, Error)> {
        let Self { session, link } = self;
        let result = link.block_on(async {
            let mut answers = Vec::with_capacity(messages.len());
            for (number, message) in messages.iter().enumerate() {
                // This only queues the message; what is queued is sent while the first answer is waited for.
                let answer = session.simple_query_raw(message).await.map_err(|error| (number, error))?;
                answers.push(answer);
            }
            let mut result = Ok(Vec::new());
            for (number, answer) in answers.into_iter().enumerate() {
                let answer = if number + 1 == messages.len() {
                    answer.try_collect().await
                } else {
                    // Rows of a query that nobody reads are not kept.
                    answer.try_for_each(|_| ready(Ok(()))).await.map(|()| Vec::new())
                };
                if result.is_ok() {
                    result = answer.map_err(|error| (number, error));
                    if result.is_ok() {
                        answered(number);
                    }
                }
            }
            result
        });
        result.map_err(|(number, error)| (number, link.explained(error)))
    }

    /// Runs a statement; gives the number of rows it was about.
    ///
    /// # Errors
    /// The server's, or the connection's.
    pub fn execute(&mut self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<u64, Error> {
        self.link.wait(self.session.execute(sql, parameters))
    }

    /// Runs a statement; gives its rows.
    ///
    /// # Errors
    /// The server's, or the connection's.
    pub fn query(&mut self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        self.link.wait(self.session.query(sql, parameters))
    }

    /// Runs a statement that gives one row.
    ///
    /// # Errors
    /// The server's, or the connection's, or that it is not one row.
    pub fn query_one(&mut self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row, Error> {
        self.link.wait(self.session.query_one(sql, parameters))
    }

    /// Runs a statement that gives one row or none.
    ///
    /// # Errors
    /// The server's, or the connection's, or that it is more than one row.
    pub fn query_opt(&mut self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>, Error> {
        self.link.wait(self.session.query_opt(sql, parameters))
    }

    /// Runs a statement in one round trip, its parameters' types being known; gives its rows.
    ///
    /// # Errors
    /// The server's, or the connection's.
    pub fn query_typed(
        &mut self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, Error> {
        self.link.wait(self.session.query_typed(sql, parameters))
    }

    /// As [`Client::query_typed`], for a statement that gives one row.
    ///
    /// # Errors
    /// The server's, or the connection's, or that it is not one row.
    pub fn query_typed_one(
        &mut self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Row, Error> {
        self.link.wait(self.session.query_typed_one(sql, parameters))
    }

    /// Begins a COPY FROM STDIN.
    ///
    /// # Errors
    /// The server's, or the connection's.
    pub fn copy_in(&mut self, sql: &str) -> Result<CopyIn<'_>, Error> {
        let sink = self.link.wait(self.session.copy_in(sql))?;
        Ok(CopyIn { link: &mut self.link, sink: Box::pin(sink) })
    }

    /// Runs a COPY TO STDOUT; `take` is given the data as it comes, in text format one or more whole rows.
    ///
    /// # Errors
    /// The server's, or the connection's; or what `take` gives: then the session is in the middle of the COPY, and good for
    /// nothing but its end.
    pub fn copy_out<E: From<Error>>(
        &mut self,
        sql: &str,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Self { session, link } = self;
        let result: Result<Result<(), E>, Error> = link.block_on(async {
            let mut rows = pin!(session.copy_out(sql).await?);
            while let Some(row) = rows.try_next().await? {
                if let Err(error) = take(&row) {
                    return Ok(Err(error));
                }
            }
            Ok(Ok(()))
        });
        result.map_err(|error| E::from(link.explained(error)))?
    }

    /// Begins a transaction. `modes` are those of START TRANSACTION, none of them where it is empty.
    ///
    /// # Errors
    /// The server's, or the connection's.
    pub fn transaction(&mut self, modes: &str) -> Result<Transaction<'_>, Error> {
        self.batch_execute(&format!("START TRANSACTION {modes}"))?;
        Ok(Transaction { client: self, open: true })
    }

    /// What cancels the session's running statement from elsewhere.
    #[must_use]
    pub fn cancel_token(&self) -> CancelToken {
        self.session.cancel_token()
    }

    /// Whether the connection is known to be gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.session.is_closed()
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("closed", &self.is_closed()).finish_non_exhaustive()
    }
}

/// A COPY FROM STDIN that waits for its rows. Without [`CopyIn::finish`] it fails.
pub struct CopyIn<'a> {
    link: &'a mut Link,
    sink: Pin<Box<CopyInSink<Bytes>>>,
}

impl CopyIn<'_> {
    /// Sends some of the rows.
    ///
    /// # Errors
    /// The server's refusal of the COPY, or the connection's.
    pub fn send(&mut self, rows: &[u8]) -> Result<(), Error> {
        self.send_owned(Bytes::copy_from_slice(rows))
    }

    /// Sends some of the rows, without a copy of them.
    ///
    /// # Errors
    /// As those of [`CopyIn::send`].
    pub fn send_owned(&mut self, rows: Bytes) -> Result<(), Error> {
        self.link.wait(self.sink.feed(rows))
    }

    /// Ends the COPY; gives the number of rows.
    ///
    /// # Errors
    /// The server's, or the connection's.
    pub fn finish(mut self) -> Result<u64, Error> {
        self.link.wait(self.sink.as_mut().finish())
    }
}

/// An open transaction, used as the client it was begun on. Without [`Transaction::commit`] it is rolled back.
pub struct Transaction<'a> {
    client: &'a mut Client,
    open: bool,
}

impl Transaction<'_> {
    /// Commits it.
    ///
    /// # Errors
    /// The server's, or the connection's.
    pub fn commit(mut self) -> Result<(), Error> {
        self.open = false;
        self.client.batch_execute("COMMIT")
    }
}

impl Deref for Transaction<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.client
    }
}

impl DerefMut for Transaction<'_> {
    fn deref_mut(&mut self) -> &mut Client {
        self.client
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.open {
            // What fails here is the session's end, and its transaction's with it.
            let _ = self.client.batch_execute("ROLLBACK");
        }
    }
}

/// Moves what is queued to the server, and its answers to who waits for them.
type Messages = Box<dyn FnMut(&mut Context<'_>) -> Poll<Option<Result<AsyncMessage, Error>>> + Send>;

/// The connection under a session, which moves only while somebody waits.
struct Link {
    runtime: Runtime,
    /// None once it has ended.
    messages: Option<Messages>,
    /// Why it has ended, until that is told.
    broken: Option<Error>,
    notice: Box<dyn Fn(DbError) + Send>,
}

impl Link {
    fn block_on<T>(&mut self, future: impl Future<Output = T>) -> T {
        let Self { runtime, messages, broken, notice } = self;
        let mut future = pin!(future);
        runtime.block_on(poll_fn(|cx| {
            drive(messages, broken, notice, cx);
            // Also when the link has just ended: an answer may have come before its end.
            future.as_mut().poll(cx)
        }))
    }

    fn wait<T>(&mut self, future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.block_on(future).map_err(|error| self.explained(error))
    }

    /// Who waited hears that the connection is closed, the link knows why.
    fn explained(&mut self, error: Error) -> Error {
        if error.is_closed() { self.broken.take().unwrap_or(error) } else { error }
    }
}

/// Moves messages for as long as there are any.
fn drive(
    link: &mut Option<Messages>,
    broken: &mut Option<Error>,
    notice: &dyn Fn(DbError),
    cx: &mut Context<'_>,
) {
    while let Some(messages) = link {
        match messages(cx) {
            Poll::Ready(Some(Ok(AsyncMessage::Notice(message)))) => notice(message),
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(error))) => {
                // Who waits learns of the end by this.
                *link = None;
                *broken = Some(error);
            }
            Poll::Ready(None) => *link = None,
            Poll::Pending => return,
        }
    }
}

impl Drop for Link {
    /// Says good-bye to the server: what is left in the queue is sent.
    fn drop(&mut self) {
        let Self { runtime, messages, broken, notice } = self;
        runtime.block_on(poll_fn(|cx| {
            drive(messages, broken, notice, cx);
            if messages.is_none() { Poll::Ready(()) } else { Poll::Pending }
        }));
    }
}
