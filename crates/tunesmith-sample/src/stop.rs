//! Stop strings: text is held back while it may still turn into one.

/// Releases text up to the first stop string.
pub(crate) struct StopText<'a> {
    stops: &'a [String],
    held: String,
}

impl<'a> StopText<'a> {
    pub(crate) fn new(stops: &'a [String]) -> Self {
        Self { stops, held: String::new() }
    }

    /// Adds `text`; returns what is certain to belong to the answer, and whether a stop string ended it.
    pub(crate) fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let found = self
            .stops
            .iter()
            .filter(|s| !s.is_empty())
            .filter_map(|stop| self.held.find(stop.as_str()))
            .min();
        if let Some(at) = found {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back, at the end of the answer.
    pub(crate) fn finish(self) -> String {
        self.held
    }
}

/// The longest end of `text` that begins `stop`, in bytes.
fn overlap(text: &str, stop: &str) -> usize {
    let starts = stop.char_indices().map(|(i, _)| i).skip(1);
    starts.filter(|&n| text.ends_with(&stop[..n])).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_flows_until_a_stop() {
        let stops = ["END".to_owned(), "###".to_owned()];
        let mut stop = StopText::new(&stops);
        assert_eq!(stop.push("an EN"), ("an ".into(), false));
        assert_eq!(stop.push("T #"), ("ENT ".into(), false));
        assert_eq!(stop.push("#é"), ("##é".into(), false));
        assert_eq!(stop.push("yes###no"), ("yes".into(), true));
        let mut stop = StopText::new(&stops);
        assert_eq!(stop.push("E"), (String::new(), false));
        assert_eq!(stop.finish(), "E");
    }
}
