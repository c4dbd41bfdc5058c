//! What a job wrote, in the order in which it came, for any number of readers.
//!
//! One append-only file of frames. A frame is `stream: u8, length: u32 little-endian, bytes`; its
//! number is its position. The file is complete up to the length that followers are told through
//! a watch channel, so a follower reads at its own pace, needs no more memory than one read, and
//! waits without polling. Nobody is waited for: a slow follower costs the job nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::Stream;
use sway_core::api::jobs::OutputStream;
use tokio::sync::watch;

/// The longest frame, in bytes: what is read of a pipe at once.
pub const FRAME_LEN_MAX: usize = 64 << 10;

/// Bytes before a frame's content.
const HEADER_LEN: usize = 5;

/// What a follower reads at once: at least one whole frame.
const READ_LEN: usize = 2 * (FRAME_LEN_MAX + HEADER_LEN);

/// Set in a frame's first byte where output was dropped.
const CUT: u8 = 0x80;

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its number, counted from 0 over both streams.
    pub seq: u64,
    /// Where it was written to.
    pub stream: OutputStream,
    /// What was written; empty in a mark.
    pub bytes: Bytes,
    /// Whether this is the mark that everything after it was dropped.
    pub cut: bool,
}

/// What became of appended bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// They are stored.
    Whole,
    /// The stream's limit is reached; what was beyond is dropped.
    Cut,
}

/// The output of one run.
#[derive(Debug)]
pub struct OutputLog {
    file: Arc<File>,
    limit: u64,
    /// Taken for each append, so that frames do not mix. Never held over an await.
    writer: Mutex<Writer>,
    published: watch::Sender<Published>,
}

#[derive(Debug, Default)]
struct Writer {
    len: u64,
    stdout: Progress,
    stderr: Progress,
}

#[derive(Debug, Default)]
struct Progress {
    bytes: u64,
    cut: bool,
}

#[derive(Clone, Copy, Debug)]
struct Published {
    len: u64,
    ended: bool,
}

impl OutputLog {
    /// Starts the log of a run in the new file `path`, of at most `limit` bytes per stream.
    pub fn create(path: &Path, limit: u64) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        let (published, _) = watch::channel(Published { len: 0, ended: false });
        Ok(Self { file: Arc::new(file), limit, writer: Mutex::default(), published })
    }

    /// Opens the log of a run that has ended. What a crash left of a last frame is ignored.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let (published, _) = watch::channel(Published { len, ended: true });
        Ok(Self { file: Arc::new(file), limit: 0, writer: Mutex::default(), published })
    }

    /// Stores bytes that the job wrote. Writes to the page cache; call it where that may block.
    pub fn append(&self, stream: OutputStream, bytes: &[u8]) -> io::Result<Appended> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let progress = writer.progress(stream);
        if progress.cut {
            return Ok(Appended::Cut);
        }
        let room = usize::try_from(self.limit - progress.bytes).unwrap_or(usize::MAX);
        let kept = &bytes[..bytes.len().min(room)];
        progress.bytes += kept.len() as u64;
        progress.cut = kept.len() < bytes.len();
        let cut = progress.cut;
        for piece in kept.chunks(FRAME_LEN_MAX) {
            self.write(&mut writer, tag(stream), piece)?;
        }
        if cut {
            self.write(&mut writer, tag(stream) | CUT, &[])?;
            return Ok(Appended::Cut);
        }
        Ok(Appended::Whole)
    }

    /// Stores a line of the worker's own, such as why a read failed, whatever the limit.
    pub fn append_note(&self, stream: OutputStream, line: &str) -> io::Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let line = &line.as_bytes()[..line.len().min(FRAME_LEN_MAX)];
        self.write(&mut writer, tag(stream), line)
    }

    fn write(&self, writer: &mut Writer, tag: u8, bytes: &[u8]) -> io::Result<()> {
        let len = u32::try_from(bytes.len()).expect("a frame is at most FRAME_LEN_MAX");
        let mut frame = Vec::with_capacity(HEADER_LEN + bytes.len());
        frame.push(tag);
        frame.extend_from_slice(&len.to_le_bytes());
        frame.extend_from_slice(bytes);
        // A write that fails half-way is overwritten by the next one.
        self.file.write_all_at(&frame, writer.len)?;
        writer.len += frame.len() as u64;
        self.published.send_modify(|published| published.len = writer.len);
        Ok(())
    }

    /// Says that nothing follows. Followers end after the last frame.
    pub fn end(&self) {
        self.published.send_modify(|published| published.ended = true);
    }

    /// Whether output of this stream was dropped.
    pub fn is_cut(&self, stream: OutputStream) -> bool {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).progress(stream).cut
    }

    /// All frames from number `from` on, those to come too, until the log ends. A log that can't
    /// be read ends there, with a line in the worker's log.
    pub fn follow(self: Arc<Self>, from: u64) -> impl Stream<Item = Frame> + Send + 'static {
        let mut published = self.published.subscribe();
        async_stream::stream! {
            let mut position = Position::default();
            loop {
                let now = *published.borrow_and_update();
                while position.offset < now.len {
                    let file = Arc::clone(&self.file);
                    let read = blocking(move || read_frames(&file, position, now.len)).await;
                    let (frames, next) = match read {
                        Ok(read) => read,
                        Err(error) => {
                            tracing::error!(error = %error, "output can't be read");
                            return;
                        }
                    };
                    if frames.is_empty() {
                        break;
                    }
                    position = next;
                    for frame in frames.into_iter().filter(|frame| frame.seq >= from) {
                        yield frame;
                    }
                }
                // `self` holds the sender, so it can't be closed.
                if now.ended || published.changed().await.is_err() {
                    return;
                }
            }
        }
    }

    /// The bytes of one stream so far, in pieces of at most 128 KiB.
    pub fn bytes(
        self: Arc<Self>,
        stream: OutputStream,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        async_stream::try_stream! {
            let end = self.published.borrow().len;
            let mut position = Position::default();
            loop {
                let file = Arc::clone(&self.file);
                let read = blocking(move || {
                    let (frames, next) = read_frames(&file, position, end)?;
                    let of_stream = frames.iter().filter(|frame| frame.stream == stream);
                    let bytes: Vec<&[u8]> = of_stream.map(|frame| &frame.bytes[..]).collect();
                    Ok((!frames.is_empty()).then(|| (bytes.concat(), next)))
                });
                let Some((bytes, next)) = read.await? else { break };
                position = next;
                if !bytes.is_empty() {
                    yield Bytes::from(bytes);
                }
            }
        }
    }

    /// The bytes of one stream so far, at most `max` of them.
    pub async fn read_all(&self, stream: OutputStream, max: u64) -> io::Result<Vec<u8>> {
        Ok(match stream {
            OutputStream::Stdout => self.beginnings(max, 0).await?.0,
            OutputStream::Stderr => self.beginnings(0, max).await?.1,
        })
    }

    /// The bytes of standard output and of standard error so far, at most so many of them.
    pub async fn beginnings(
        &self,
        stdout_max: u64,
        stderr_max: u64,
    ) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let file = Arc::clone(&self.file);
        let len = self.published.borrow().len;
        if len == 0 {
            return Ok(Default::default());
        }
        let max = [stdout_max, stderr_max].map(|max| usize::try_from(max).unwrap_or(usize::MAX));
        blocking(move || {
            let mut streams = [Vec::new(), Vec::new()];
            let mut position = Position::default();
            while streams.iter().zip(max).any(|(bytes, max)| bytes.len() < max) {
                let (frames, next) = read_frames(&file, position, len)?;
                if frames.is_empty() {
                    break;
                }
                position = next;
                for frame in &frames {
                    let at = match frame.stream {
                        OutputStream::Stdout => 0,
                        OutputStream::Stderr => 1,
                    };
                    let room = max[at] - streams[at].len();
                    streams[at].extend_from_slice(&frame.bytes[..frame.bytes.len().min(room)]);
                }
            }
            Ok(streams.into())
        })
        .await
    }
}

/// Whole frames from `position` on, below `end`, and where the next ones are. None at the end.
fn read_frames(file: &File, position: Position, end: u64) -> io::Result<(Vec<Frame>, Position)> {
    let left = usize::try_from(end - position.offset).unwrap_or(usize::MAX);
    let mut buffer = vec![0; left.min(READ_LEN)];
    file.read_exact_at(&mut buffer, position.offset)?;
    let buffer = Bytes::from(buffer);
    let (mut frames, mut next, mut at) = (Vec::new(), position, 0);
    while let Some((&[tag, a, b, c, d], rest)) = buffer[at..].split_first_chunk() {
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        if len > FRAME_LEN_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a file of frames"));
        }
        if rest.len() < len {
            break;
        }
        let start = at + HEADER_LEN;
        at = start + len;
        frames.push(Frame {
            seq: next.seq,
            stream: stream_of(tag),
            bytes: buffer.slice(start..at),
            cut: tag & CUT != 0,
        });
        next = Position { offset: position.offset + at as u64, seq: next.seq + 1 };
    }
    Ok((frames, next))
}

/// A place between frames.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    offset: u64,
    seq: u64,
}

impl Writer {
    fn progress(&mut self, stream: OutputStream) -> &mut Progress {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }
}

fn tag(stream: OutputStream) -> u8 {
    match stream {
        OutputStream::Stdout => 1,
        OutputStream::Stderr => 2,
    }
}

fn stream_of(tag: u8) -> OutputStream {
    if tag & !CUT == 2 { OutputStream::Stderr } else { OutputStream::Stdout }
}

/// Runs disk work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    const OUT: OutputStream = OutputStream::Stdout;
    const ERR: OutputStream = OutputStream::Stderr;

    fn log(limit: u64) -> (tempfile::TempDir, Arc<OutputLog>) {
        let dir = tempfile::tempdir().unwrap();
        let log = OutputLog::create(&dir.path().join("output"), limit).unwrap();
        (dir, Arc::new(log))
    }

    #[tokio::test]
    async fn early_and_late_followers_see_all_frames_in_order() {
        let (_dir, log) = log(1 << 20);
        let early = Arc::clone(&log).follow(0).collect::<Vec<_>>();
        let writer = async {
            for n in 0..1000u32 {
                let stream = if n % 3 == 0 { ERR } else { OUT };
                log.append(stream, format!("line {n}\n").as_bytes()).unwrap();
                if n % 50 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            log.end();
        };
        let (early, ()) = tokio::join!(early, writer);
        let late = Arc::clone(&log).follow(0).collect::<Vec<_>>().await;
        assert_eq!(early, late);
        assert_eq!(late.len(), 1000);
        for (n, frame) in late.iter().enumerate() {
            assert_eq!(frame.seq, n as u64);
            assert_eq!(frame.bytes, format!("line {n}\n"));
        }
        let resumed = Arc::clone(&log).follow(990).collect::<Vec<_>>().await;
        assert_eq!(resumed, late[990..]);
    }

    #[tokio::test]
    async fn a_follower_gets_a_frame_before_the_next_is_written() {
        let (_dir, log) = log(1 << 20);
        let mut frames = Box::pin(Arc::clone(&log).follow(0));
        for n in 0..10u8 {
            log.append(OUT, &[n]).unwrap();
            let frame = frames.next().await.unwrap();
            assert_eq!(&frame.bytes[..], [n]);
        }
        log.end();
        assert_eq!(frames.next().await, None);
    }

    #[tokio::test]
    async fn each_stream_is_cut_at_its_limit_and_marked_once() {
        let (_dir, log) = log(5);
        assert_eq!(log.append(OUT, b"abc").unwrap(), Appended::Whole);
        assert_eq!(log.append(OUT, b"defgh").unwrap(), Appended::Cut);
        assert_eq!(log.append(OUT, b"i").unwrap(), Appended::Cut);
        assert_eq!(log.append(ERR, b"12345").unwrap(), Appended::Whole);
        log.append_note(ERR, "sway: a note\n").unwrap();
        log.end();
        assert!(log.is_cut(OUT) && !log.is_cut(ERR));
        assert_eq!(log.read_all(OUT, 100).await.unwrap(), b"abcde");
        assert_eq!(log.read_all(OUT, 2).await.unwrap(), b"ab");
        assert_eq!(log.read_all(ERR, 100).await.unwrap(), b"12345sway: a note\n");
        let both = log.beginnings(2, 100).await.unwrap();
        assert_eq!(both, (b"ab".to_vec(), b"12345sway: a note\n".to_vec()));
        let frames = Arc::clone(&log).follow(0).collect::<Vec<_>>().await;
        assert_eq!(frames.iter().filter(|frame| frame.cut).count(), 1);
    }

    #[tokio::test]
    async fn long_writes_are_split_and_read_back() {
        let (dir, log) = log(1 << 20);
        let bytes: Vec<u8> = (0..300_000u32).map(|n| n.to_le_bytes()[0]).collect();
        log.append(OUT, &bytes).unwrap();
        log.end();
        assert_eq!(log.read_all(OUT, u64::MAX).await.unwrap(), bytes);
        let reopened = Arc::new(OutputLog::open(&dir.path().join("output")).unwrap());
        assert_eq!(reopened.read_all(OUT, u64::MAX).await.unwrap(), bytes);
    }

    #[tokio::test]
    async fn a_torn_last_frame_is_ignored() {
        let (dir, log) = log(100);
        log.append(OUT, b"whole").unwrap();
        log.append(OUT, b"torn").unwrap();
        let path = dir.path().join("output");
        let len = fs_err::metadata(&path).unwrap().len();
        File::options().write(true).open(&path).unwrap().set_len(len - 2).unwrap();
        let reopened = Arc::new(OutputLog::open(&path).unwrap());
        assert_eq!(reopened.read_all(OUT, 100).await.unwrap(), b"whole");
        assert_eq!(Arc::clone(&reopened).follow(0).collect::<Vec<_>>().await.len(), 1);
    }
}
