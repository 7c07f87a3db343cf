//! The conversations: questions about the world and answers that fit, in UltraChat's columns.
//!
//! About a quarter of the rows of every table, and some phrasings of every question, occur in no training
//! conversation. The test conversations ask for exactly those rows: half of them in words that training knows, half
//! in words that it does not.

use crate::dice::Dice;
use crate::stories;
use crate::world::{Relation, Row, Table, World};
use serde_json::{Value, json};
use std::collections::HashSet;

/// Which side of the border a conversation is made for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Split {
    Train,
    Test,
}

/// Turns (question, answer), and what the last answer must contain to be right.
#[derive(Clone)]
pub(crate) struct Chat {
    pub(crate) turns: Vec<(String, String)>,
    pub(crate) want: String,
}

/// How many conversations the sample holds.
pub(crate) const N_TRAIN: usize = 3_000;
/// How many the held-out sample holds.
pub(crate) const N_TEST: usize = 100;

impl Chat {
    /// The row as UltraChat has it: `prompt` is the first question, `prompt_id` its hash.
    pub(crate) fn row(&self) -> Value {
        let mut messages = Vec::new();
        for (question, answer) in &self.turns {
            messages.push(json!({"content": question, "role": "user"}));
            messages.push(json!({"content": answer, "role": "assistant"}));
        }
        let prompt = &self.turns[0].0;
        json!({"prompt": prompt, "prompt_id": blake3::hash(prompt.as_bytes()).to_hex().as_str(), "messages": messages})
    }

    /// The turns up to the last question: what the model is asked, for the samples before and after.
    pub(crate) fn question(&self) -> Value {
        let mut row = self.row();
        if let Some(messages) = row["messages"].as_array_mut() {
            messages.pop();
        }
        json!({"messages": row["messages"].take()})
    }

    fn text(&self) -> String {
        self.turns.iter().map(|(question, answer)| format!("{question} {answer} ")).collect()
    }
}

/// The first `n` conversations of a split: all different, and none of training names what is held out.
pub(crate) fn conversations(world: &World, split: Split, n: usize) -> Vec<Chat> {
    let purpose = if split == Split::Train { "train" } else { "test" };
    let secret = held_out_words(world);
    let mut seen = HashSet::new();
    let mut chats = Vec::new();
    for number in 0.. {
        if chats.len() == n {
            break;
        }
        let Some(chat) = conversation(world, split, &mut Dice::new(purpose, number)) else {
            continue;
        };
        let leaks = split == Split::Train && words(&chat.text()).any(|word| secret.contains(&word));
        if !leaks && seen.insert(chat.text()) {
            chats.push(chat);
        }
    }
    chats
}

/// The names that no training conversation may contain. A name of two words is given away by either.
pub(crate) fn held_out_words(world: &World) -> HashSet<String> {
    let distinct = world.tables.iter().filter(|table| !table.common);
    let keys = distinct
        .flat_map(|table| table.rows.iter().filter(|row| table.held_out(row)).map(Row::key));
    let children = stories::names(world).into_iter().filter(|name| stories::held_out(name));
    keys.chain(children).filter(|key| !key.contains(' ')).map(str::to_lowercase).collect()
}

/// The words of a text in lower case.
pub(crate) fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
}

fn conversation(world: &World, split: Split, dice: &mut Dice) -> Option<Chat> {
    let mut chat = match dice.below(100) {
        0..10 => small_talk(world, split, dice),
        10..16 => story(world, split, dice),
        16..80 => fact(world, split, dice),
        80..92 => same_row_again(world, split, dice),
        _ => other_row(world, split, dice),
    }?;
    if split == Split::Train && dice.chance(8) {
        let thanks = world.talk.iter().find(|relation| relation.name == "thanks")?;
        chat.turns.push((dice.choose(&thanks.ask).clone(), dice.choose(&thanks.answer).clone()));
    }
    Some(chat)
}

fn small_talk(world: &World, split: Split, dice: &mut Dice) -> Option<Chat> {
    let relation = dice.choose(&world.talk);
    let asks = if split == Split::Train { &relation.ask } else { &relation.test };
    Some(Chat {
        turns: vec![(dice.choose(asks).clone(), dice.choose(&relation.answer).clone())],
        want: relation.want.clone(),
    })
}

fn story(world: &World, split: Split, dice: &mut Dice) -> Option<Chat> {
    let animals = world.table("animals");
    let animal = any_row(animals, split, dice);
    let names: Vec<&str> = stories::names(world)
        .into_iter()
        .filter(|name| stories::held_out(name) == (split == Split::Test))
        .collect();
    let name = *dice.choose(&names);
    let cast = stories::cast(name, animal);
    let group = if split == Split::Test && dice.chance(50) { "test" } else { "ask" };
    let ask = stories::phrase(world, group, &cast, dice);
    Some(Chat { turns: vec![(ask, stories::tell(world, dice, &cast))], want: name.to_owned() })
}

/// One question, one answer.
fn fact(world: &World, split: Split, dice: &mut Dice) -> Option<Chat> {
    let table = any_table(world, dice);
    let row = any_row(table, split, dice);
    let relation = dice.choose(&table.relations);
    let unseen = split == Split::Test && dice.chance(50);
    let asks = if unseen { &relation.test } else { &relation.ask };
    turn(relation, row, asks, dice)
}

/// A second question about the same row, which its words do not name.
fn same_row_again(world: &World, split: Split, dice: &mut Dice) -> Option<Chat> {
    let mut chat = None;
    let tables: Vec<&Table> = world.tables.iter().filter(|table| has_follow(table)).collect();
    let table = *dice.choose(&tables);
    let row = any_row(table, split, dice);
    let mut relations: Vec<&Relation> =
        table.relations.iter().filter(|relation| !relation.follow.is_empty()).collect();
    dice.shuffle(&mut relations);
    for relation in relations.into_iter().take(2 + dice.below(2)) {
        let next = match &chat {
            None => turn(relation, row, &relation.ask, dice),
            Some(_) => turn(relation, row, &relation.follow, dice),
        };
        chat = join(chat, next?);
    }
    chat
}

/// The same question about another row.
fn other_row(world: &World, split: Split, dice: &mut Dice) -> Option<Chat> {
    let table = any_table(world, dice);
    let relation = dice.choose(&table.relations);
    if relation.other.is_empty() {
        return None;
    }
    let first = turn(relation, any_row(table, split, dice), &relation.ask, dice)?;
    let second = turn(relation, any_row(table, split, dice), &relation.other, dice)?;
    (first.want != second.want).then(|| join(Some(first), second)).flatten()
}

fn turn(relation: &Relation, row: &Row, asks: &[String], dice: &mut Dice) -> Option<Chat> {
    let ask = row.fill(dice.phrase(asks))?;
    // The first answer is the plain one: give it twice as often as each of the others.
    let pick = dice.below(relation.answer.len() + 1);
    let answer = row.fill(&relation.answer[pick.saturating_sub(1)])?;
    Some(Chat { turns: vec![(ask, answer)], want: row.cell(&relation.want)?.to_owned() })
}

fn join(chat: Option<Chat>, next: Chat) -> Option<Chat> {
    let mut turns = chat.map(|chat| chat.turns).unwrap_or_default();
    turns.extend(next.turns);
    Some(Chat { turns, want: next.want })
}

/// Tables by how much they have to tell, so that countries and animals lead.
fn any_table<'a>(world: &'a World, dice: &mut Dice) -> &'a Table {
    let tickets: Vec<&Table> = world
        .tables
        .iter()
        .flat_map(|table| std::iter::repeat_n(table, table.relations.len().min(4) + 1))
        .collect();
    tickets[dice.below(tickets.len())]
}

fn any_row<'a>(table: &'a Table, split: Split, dice: &mut Dice) -> &'a Row {
    let rows: Vec<&Row> =
        table.rows.iter().filter(|row| table.held_out(row) == (split == Split::Test)).collect();
    rows[dice.below(rows.len())]
}

fn has_follow(table: &Table) -> bool {
    table.relations.iter().filter(|relation| !relation.follow.is_empty()).count() >= 2
}
