//! Server-sent events (WHATWG HTML, 9.2.6), as far as the worker sends them: UTF-8 lines with
//! `id`, `event` and `data`; comments keep the connection alive.

/// The longest line, in bytes: an event's data is one line of JSON.
const LINE_LEN_MAX: usize = 8 << 20;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// The id, for `Last-Event-ID`, if it has one.
    pub(crate) id: Option<String>,
    /// Lines of data, joined.
    pub(crate) data: String,
}

/// Collects pieces of a body until they hold an event.
#[derive(Debug, Default)]
pub(crate) struct EventDecoder {
    buffer: Vec<u8>,
    /// Bytes of the buffer that are known to hold no line's end.
    searched: usize,
    event: Event,
    has_data: bool,
}

impl EventDecoder {
    /// Adds the next piece of the body.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next whole event; none until more pieces are there.
    pub(crate) fn next_event(&mut self) -> Result<Option<Event>, &'static str> {
        while let Some(line) = self.next_line()? {
            if line.is_empty() {
                let event = std::mem::take(&mut self.event);
                if std::mem::take(&mut self.has_data) {
                    return Ok(Some(event));
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => self.event.id = Some(value.to_owned()),
                "data" => {
                    if self.has_data {
                        self.event.data.push('\n');
                    }
                    self.event.data.push_str(value);
                    self.has_data = true;
                }
                // The event's name is in its data too; an empty field is a comment.
                _ => {}
            }
        }
        Ok(None)
    }

    fn next_line(&mut self) -> Result<Option<String>, &'static str> {
        let Some(found) = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n')
        else {
            self.searched = self.buffer.len();
            return if self.searched > LINE_LEN_MAX { Err("a line is too long") } else { Ok(None) };
        };
        let mut line: Vec<u8> = self.buffer.drain(..=self.searched + found).collect();
        self.searched = 0;
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        String::from_utf8(line).map(Some).map_err(|_| "a line is not UTF-8")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_any_cutting_of_the_body() {
        let body = ": hello\n\nid: 7\nevent: output\ndata: {\"a\":1}\n\n:\n\nid:8\r\ndata:é\r\ndata: y\r\n\r\ndata: z\n\nid: 9\ndata: lost";
        let event = |id: Option<&str>, data: &str| Event {
            id: id.map(str::to_owned),
            data: data.to_owned(),
        };
        for len in 1..body.len() {
            let mut decoder = EventDecoder::default();
            let mut events = Vec::new();
            for piece in body.as_bytes().chunks(len) {
                decoder.push(piece);
                while let Some(event) = decoder.next_event().unwrap() {
                    events.push(event);
                }
            }
            assert_eq!(
                events,
                [event(Some("7"), "{\"a\":1}"), event(Some("8"), "é\ny"), event(None, "z"),]
            );
        }
    }

    #[test]
    fn an_endless_line_is_an_error() {
        let mut decoder = EventDecoder::default();
        decoder.push(&vec![b'x'; LINE_LEN_MAX + 1]);
        assert!(decoder.next_event().is_err());
    }
}
