//! The pre-training corpus: plain text that states every fact many times, in many words, and holds no chat and no question.
//!
//! A model that reads a fact in one wording learns the wording; read in many, beside changing neighbours, it learns
//! the fact. So each document is one of six mixtures, and each sentence draws its phrasing anew.

use crate::dice::Dice;
use crate::stories;
use crate::world::{Row, Table, World};

/// How many documents there are: about 5 MB.
pub(crate) const N_DOCUMENTS: u64 = 12_000;

/// The document with this number.
pub(crate) fn document(world: &World, number: u64) -> String {
    let dice = &mut Dice::new("corpus", number);
    match dice.below(20) {
        0..=4 => portraits(world, dice),
        5..=6 => survey(world, dice),
        7..=10 => medley(world, dice),
        11..=12 => story(world, dice),
        13..=14 => echoes(world, dice),
        _ => lesson(world, dice),
    }
}

/// All that is known of a few rows, one after the other.
fn portraits(world: &World, dice: &mut Dice) -> String {
    let mut sentences = Vec::new();
    let table = any_table(world, dice);
    while sentences.len() < 8 {
        let row = dice.choose(&table.rows);
        let mut about: Vec<String> = (0..table.relations.len())
            .filter_map(|i| state(&table.relations[i].say, row, dice))
            .collect();
        dice.shuffle(&mut about);
        sentences.extend(about);
    }
    sentences.join(" ")
}

/// One relation over many rows.
fn survey(world: &World, dice: &mut Dice) -> String {
    let table = any_table(world, dice);
    let relation = dice.choose(&table.relations);
    let mut sentences = Vec::new();
    while sentences.len() < 9 {
        let row = dice.choose(&table.rows);
        sentences.extend(state(&relation.say, row, dice));
    }
    sentences.join(" ")
}

/// Facts of all kinds.
fn medley(world: &World, dice: &mut Dice) -> String {
    let mut sentences = Vec::new();
    while sentences.len() < 9 {
        let table = any_table(world, dice);
        let row = dice.choose(&table.rows);
        sentences.extend(state(&dice.choose(&table.relations).say, row, dice));
    }
    sentences.join(" ")
}

/// Two stories, with what is known of their animals between them.
fn story(world: &World, dice: &mut Dice) -> String {
    let animals = world.table("animals");
    let names = stories::names(world);
    let mut paragraphs = Vec::new();
    for _ in 0..2 {
        let animal = dice.choose(&animals.rows);
        let cast = stories::cast(names[dice.below(names.len())], animal);
        if dice.chance(60) {
            paragraphs.push(stories::phrase(world, "about", &cast, dice));
        }
        paragraphs.push(stories::tell(world, dice, &cast));
        let mut facts = Vec::new();
        for _ in 0..3 {
            facts.extend(state(&dice.choose(&animals.relations).say, animal, dice));
        }
        paragraphs.push(facts.join(" "));
    }
    paragraphs.retain(|paragraph| !paragraph.is_empty());
    paragraphs.join(" ")
}

/// What someone wants to know, in an indirect question, and then the fact: the model learns which words ask for what.
fn lesson(world: &World, dice: &mut Dice) -> String {
    let mut sentences = Vec::new();
    while sentences.len() < 6 {
        let table = any_table(world, dice);
        let relation = dice.choose(&table.relations);
        let row = dice.choose(&table.rows);
        let fact = (state(&relation.wonder, row, dice), state(&relation.answer, row, dice));
        if let (Some(wonder), Some(answer)) = fact {
            let cast = pair(world, dice, [("wonder", wonder), ("answer", answer)]);
            sentences.push(stories::phrase(world, "wonder", &cast, dice));
        }
    }
    sentences.join(" ")
}

/// Someone says words and someone repeats them: the model learns to copy a name that it has just read.
fn echoes(world: &World, dice: &mut Dice) -> String {
    let mut sentences = Vec::new();
    for _ in 0..4 {
        let (mut words, n) = (Vec::new(), 3 + dice.below(3));
        while words.len() < n {
            let table = any_table(world, dice);
            let row = dice.choose(&table.rows);
            let (column, cell) = &row.0[dice.below(row.0.len().min(3))];
            if column != "sum" && cell != "-" {
                words.push(cell.as_str());
            }
        }
        let cast = pair(world, dice, [("list", words.join(", "))]);
        sentences.push(stories::phrase(world, "echo", &cast, dice));
    }
    sentences.join(" ")
}

/// Two children and the texts that a frame needs.
fn pair<const N: usize>(world: &World, dice: &mut Dice, texts: [(&str, String); N]) -> Row {
    let names = stories::names(world);
    let mut child = || names[dice.below(names.len())].to_owned();
    let children = [("name", child()), ("friend", child())];
    Row(children.into_iter().chain(texts).map(|(column, cell)| (column.to_owned(), cell)).collect())
}

/// A table, the ones with more to tell more often.
fn any_table<'a>(world: &'a World, dice: &mut Dice) -> &'a Table {
    let facts = |table: &Table| (table.rows.len() * table.relations.len()).min(400);
    let mut ticket = dice.below(world.tables.iter().map(facts).sum());
    for table in &world.tables {
        match ticket.checked_sub(facts(table)) {
            Some(left) => ticket = left,
            None => return table,
        }
    }
    unreachable!("the ticket is below the sum")
}

/// One of the phrasings, filled; none where the row has no such fact.
fn state(phrasings: &[String], row: &Row, dice: &mut Dice) -> Option<String> {
    row.fill(dice.phrase(phrasings))
}
