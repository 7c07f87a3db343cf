//! The small world: tables of true facts and the phrasings that state, ask and answer them, read from `world/*.txt`.
//!
//! A table file has a `[rows]` section, whose first line names the columns and whose first column is the key, and one
//! section for each relation: `say` lines state the fact in the corpus, `wonder` lines are its indirect questions
//! there, `ask` lines ask for it in the training conversations, `test` lines only in the held-out ones, `answer` lines
//! answer, `follow` lines ask again about the same row, `other` lines about another row, and `want` names the column
//! that a right answer contains.
//!
//! `{country}` stands for a cell, `{Country}` for the cell with a capital, `{a animal}` and `{A animal}` add the
//! article. A cell `-` means that the row has no such fact.

use crate::dice::Dice;

/// Everything the generator knows.
pub(crate) struct World {
    /// Facts about things that have a name.
    pub(crate) tables: Vec<Table>,
    /// Small talk: relations without rows.
    pub(crate) talk: Vec<Relation>,
    /// Story parts by section.
    pub(crate) stories: Vec<(String, Vec<String>)>,
}

/// Rows of facts and the relations between their columns.
pub(crate) struct Table {
    /// Its file's name.
    pub(crate) name: &'static str,
    /// Whether its keys are everyday words, which other tables use too.
    pub(crate) common: bool,
    /// The facts.
    pub(crate) rows: Vec<Row>,
    /// How the facts are put into words.
    pub(crate) relations: Vec<Relation>,
}

/// One line of a table: (column, cell), the key first.
#[derive(Clone)]
pub(crate) struct Row(pub(crate) Vec<(String, String)>);

/// A relation's phrasings.
#[derive(Default)]
pub(crate) struct Relation {
    pub(crate) name: String,
    pub(crate) say: Vec<String>,
    pub(crate) wonder: Vec<String>,
    pub(crate) ask: Vec<String>,
    pub(crate) test: Vec<String>,
    pub(crate) answer: Vec<String>,
    pub(crate) follow: Vec<String>,
    pub(crate) other: Vec<String>,
    pub(crate) want: String,
}

impl World {
    /// Reads the files that are compiled in.
    pub(crate) fn new() -> Self {
        let files = [
            ("countries", include_str!("world/countries.txt")),
            ("animals", include_str!("world/animals.txt")),
            ("plants", include_str!("world/plants.txt")),
            ("things", include_str!("world/things.txt")),
            ("jobs", include_str!("world/jobs.txt")),
            ("places", include_str!("world/places.txt")),
            ("materials", include_str!("world/materials.txt")),
            ("opposites", include_str!("world/opposites.txt")),
            ("plurals", include_str!("world/plurals.txt")),
            ("calendar", include_str!("world/calendar.txt")),
            ("body", include_str!("world/body.txt")),
            ("sums", include_str!("world/sums.txt")),
        ];
        let tables = files.into_iter().map(|(name, text)| Table::parse(name, text)).collect();
        let talk = sections(include_str!("world/talk.txt"))
            .into_iter()
            .map(|(name, l)| Relation::parse(name, &l));
        Self { tables, talk: talk.collect(), stories: sections(include_str!("world/stories.txt")) }
    }

    /// The table called `name`, which is one of ours.
    pub(crate) fn table(&self, name: &str) -> &Table {
        self.tables.iter().find(|table| table.name == name).expect("a table of this world")
    }
}

impl Table {
    fn parse(name: &'static str, text: &str) -> Self {
        let mut sections = sections(text).into_iter();
        let (header, mut lines) = sections.next().expect("a [rows] section");
        let columns: Vec<String> = lines.remove(0).split(" | ").map(str::to_owned).collect();
        let mut rows: Vec<Row> = lines
            .iter()
            .map(|line| {
                Row(columns.iter().cloned().zip(line.split(" | ").map(str::to_owned)).collect())
            })
            .collect();
        if header.contains("mirror") {
            let swap = |row: &Row| {
                Row(columns.iter().cloned().zip(row.0.iter().rev().map(|c| c.1.clone())).collect())
            };
            rows.extend(rows.iter().map(swap).collect::<Vec<_>>());
        }
        if name == "sums" {
            rows = count_sums();
        }
        let relations = sections.map(|(name, lines)| Relation::parse(name, &lines)).collect();
        Self { name, common: header.contains("common"), rows, relations }
    }

    /// Whether the training conversations must not know `row`: about one in four.
    pub(crate) fn held_out(&self, row: &Row) -> bool {
        let key = row.key();
        let sample = key
            .bytes()
            .fold(0, |hash: u64, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
        Dice::new(&format!("held out {} {key}", self.name), sample).chance(25)
    }
}

impl Row {
    /// What the row is about.
    pub(crate) fn key(&self) -> &str {
        &self.0[0].1
    }

    /// The text of a column; none where the row has no such fact.
    pub(crate) fn cell(&self, column: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name == column)
            .map(|(_, cell)| cell.as_str())
            .filter(|&cell| cell != "-")
    }

    /// `phrase` with this row's cells in its places; none where one of them is missing.
    pub(crate) fn fill(&self, phrase: &str) -> Option<String> {
        let mut text = String::new();
        let mut rest = phrase;
        while let Some((before, after)) = rest.split_once('{') {
            let (place, after) = after.split_once('}')?;
            let column = place.trim_start_matches("a ").trim_start_matches("A ");
            let cell = self.cell(&column.to_lowercase())?;
            text.push_str(before);
            if column.len() < place.len() {
                let article =
                    if cell.starts_with(['a', 'e', 'i', 'o', 'u']) { "an " } else { "a " };
                text.push_str(&if place.starts_with('A') {
                    capital(article)
                } else {
                    article.to_owned()
                });
            }
            text.push_str(&if column.starts_with(char::is_uppercase) {
                capital(cell)
            } else {
                cell.to_owned()
            });
            rest = after;
        }
        Some(text + rest)
    }
}

impl Relation {
    fn parse(name: String, lines: &[String]) -> Self {
        let mut relation = Self { name, ..Self::default() };
        for line in lines {
            let (kind, phrase) = line.split_once(": ").expect("`kind: phrase`");
            let phrase = phrase.to_owned();
            match kind {
                "say" => relation.say.push(phrase),
                "wonder" => relation.wonder.push(phrase),
                "ask" => relation.ask.push(phrase),
                "test" => relation.test.push(phrase),
                "answer" => relation.answer.push(phrase),
                "follow" => relation.follow.push(phrase),
                "other" => relation.other.push(phrase),
                "want" => relation.want = phrase,
                _ => panic!("unknown kind of line `{kind}`"),
            }
        }
        relation
    }
}

/// The text with its first letter in upper case.
pub(crate) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// `[name]` lines and what stands below each; comments and empty lines are left out.
fn sections(text: &str) -> Vec<(String, Vec<String>)> {
    let mut sections: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match (line.strip_prefix('['), sections.last_mut()) {
            // `[rows common] one | many` carries the column names on the same line.
            (Some(header), _) => {
                let (name, rest) = header.split_once(']').expect("`]`");
                let rest = rest.trim();
                sections.push((
                    name.to_owned(),
                    if rest.is_empty() { Vec::new() } else { vec![rest.to_owned()] },
                ));
            }
            (None, Some((_, lines))) => lines.push(line.to_owned()),
            (None, None) => panic!("a line before the first section: {line}"),
        }
    }
    sections
}

/// Every x + y = z with x and y from 1 to 10, in digits and in words, under one key.
fn count_sums() -> Vec<Row> {
    const WORDS: [&str; 21] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
        "twenty",
    ];
    let mut rows = Vec::new();
    for (x, y) in (1..=10).flat_map(|x| (1..=10).map(move |y| (x, y))) {
        let cells = |[x, y, z]: [String; 3], key: String| {
            Row([("sum", key), ("x", x), ("y", y), ("z", z)]
                .map(|(name, cell)| (name.to_owned(), cell))
                .to_vec())
        };
        rows.push(cells([x, y, x + y].map(|n: usize| n.to_string()), format!("{x}+{y}")));
        rows.push(cells([x, y, x + y].map(|n| WORDS[n].to_owned()), format!("{x}+{y}")));
    }
    rows
}
