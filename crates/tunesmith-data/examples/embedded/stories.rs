//! Stories of three sentences about a child and an animal.

use crate::dice::Dice;
use crate::world::{Row, World};

/// A child and an animal in one row, which the story phrases fill.
pub(crate) fn cast(name: &str, animal: &Row) -> Row {
    let mut row = animal.clone();
    row.0.insert(0, ("name".to_owned(), name.to_owned()));
    row
}

/// The children's names.
pub(crate) fn names(world: &World) -> Vec<&str> {
    section(world, "names").iter().flat_map(|line| line.split(' ')).collect()
}

/// Whether the training conversations must not know the child: about one in four.
pub(crate) fn held_out(name: &str) -> bool {
    Dice::new(&format!("held out child {name}"), 0).chance(25)
}

/// A story with the given cast.
pub(crate) fn tell(world: &World, dice: &mut Dice, cast: &Row) -> String {
    let sentence = |group: &str, dice: &mut Dice| phrase(world, group, cast, dice);
    [sentence("first", dice), sentence("second", dice), sentence("third", dice)].join(" ")
}

/// A phrase of `group` with the cast filled in. Every group has one that needs nothing but a name and an animal.
pub(crate) fn phrase(world: &World, group: &str, cast: &Row, dice: &mut Dice) -> String {
    let filled: Vec<String> =
        section(world, group).iter().filter_map(|phrase| cast.fill(phrase)).collect();
    // A name needs no capital, but `{name}` may follow an article's place at the start.
    crate::world::capital(dice.phrase(&filled))
}

fn section<'a>(world: &'a World, name: &str) -> &'a [String] {
    let found = world.stories.iter().find(|(section, _)| section == name);
    &found.expect("a section of stories.txt").1
}
