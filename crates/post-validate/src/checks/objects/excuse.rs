//! Whether the files say that an object is to go, or to be another one.

use ms5_common::effects::{Class, Said};

use super::object::{Object, may_be};

/// What the files say, and what follows from it.
pub(super) struct Excuses(Vec<Said>);

impl Excuses {
    pub(super) fn of(said: Vec<Said>) -> Self {
        Self(said)
    }

    /// Takes note that an object goes, though no file names it.
    pub(super) fn add(&mut self, object: &Object) {
        self.0.extend(class(object).map(|class| Said { class, name: object.path.clone(), cascade: false }));
    }

    /// Takes those objects out that a file says are to go, or that go with one of them.
    pub(super) fn take_from(&mut self, missing: &mut Vec<Object>) {
        loop {
            let before = missing.len();
            let mut with_them = Vec::new();
            missing.retain(|object| {
                let cause = self.0.iter().find(|said| goes(said, object));
                with_them.extend(
                    cause
                        .and_then(|cause| Some((class(object)?, object, cause.cascade)))
                        .map(|(class, object, cascade)| Said { class, name: object.path.clone(), cascade }),
                );
                cause.is_none()
            });
            self.0.extend(with_them);
            if missing.len() == before {
                return;
            }
        }
    }

    /// Whether a file alters an object or its table, or makes it anew, or takes away or renames what it stands on.
    pub(super) fn change(&self, object: &Object) -> bool {
        self.0.iter().any(|said| {
            if said.class == Class::Altered {
                return may_be(&said.name, &object.path)
                    || object.relation.as_ref().is_some_and(|relation| may_be(&said.name, relation));
            }
            goes(said, object) || depends(said, object)
        })
    }
}

/// What goes with an object that is an object by itself.
fn class(object: &Object) -> Option<Class> {
    Some(match object.kind.as_str() {
        "table" | "partitioned table" | "foreign table" | "view" | "materialized view" => Class::Relation,
        "column" => Class::Column,
        "constraint" => Class::Constraint,
        "index" => Class::Index,
        "sequence" => Class::Sequence,
        "function" => Class::Routine,
        "type" => Class::Type,
        _ => return None,
    })
}

/// Whether what is said takes this object away.
fn goes(said: &Said, object: &Object) -> bool {
    let Some(name) = said.name.last() else { return false };
    let is_it = || may_be(&said.name, &object.path);
    let of_it = || object.is(&["owner of", "grant", "comment on"]) && is_it();
    let part = |kind| object.is(&[kind, "comment on"]) && object.path.len() > 2 && is_it();
    // Where code computes the table's name, any table may be meant.
    let of_its_table = || match said.name.split_last() {
        Some((_, [])) => object.relation.is_some(),
        Some((_, of)) => object.relation.as_ref().is_some_and(|relation| may_be(of, relation)),
        None => false,
    };
    let itself = match said.class {
        Class::Relation => object.relation.as_ref().is_some_and(|relation| may_be(&said.name, relation)),
        Class::Schema => object.path.first() == Some(name) && !object.is(&["extension", "publication"]),
        Class::Index => (object.is(&["index"]) && is_it()) || of_it() || is_key(object, name),
        Class::Sequence => (object.is(&["sequence"]) && is_it()) || of_it(),
        Class::Routine => (object.is(&["function"]) && is_it()) || of_it(),
        Class::Type => (object.is(&["type"]) && is_it()) || of_it(),
        Class::Extension => object.is(&["extension"]) && is_it(),
        Class::Statistics => (object.is(&["statistics"]) && is_it()) || of_it(),
        Class::Publication => object.is(&["publication"]) && object.path.last() == Some(name),
        Class::Column => {
            let on_it = object.is(&["constraint", "index", "sequence", "statistics", "row policy"]);
            of_its_table()
                && ((object.path.len() > 2 && object.own() == name) || (on_it && object.mentions(name)))
        }
        Class::Constraint => {
            part("constraint") || (object.is(&["index"]) && of_its_table() && object.own() == name)
        }
        Class::Trigger => part("trigger"),
        Class::Policy => part("row policy"),
        Class::Rule => part("rule"),
        Class::Identity => object.is(&["sequence"]) && of_its_table() && object.mentions(name),
        Class::Rights => {
            let on_relation = object.relation.as_ref().is_some_and(|relation| may_be(&said.name, relation));
            object.is(&["grant"]) && (is_it() || on_relation)
        }
        Class::RightsIn => object.is(&["grant"]) && object.path.first() == Some(name),
        // The table itself stays.
        Class::Rows => return false,
        Class::Comment => object.is(&["comment on"]) && is_it(),
        Class::Job => object.is(&["policy"]) && is_it(),
        // Compression is switched off by ALTER TABLE.
        Class::Altered => {
            object.is(&["compression setting"])
                && object.relation.as_ref().is_some_and(|relation| may_be(&said.name, relation))
        }
    };
    itself || (said.cascade && depends(said, object))
}

/// Whether the definition of an object stands on what is said.
fn depends(said: &Said, object: &Object) -> bool {
    let Some((name, of)) = said.name.split_last() else { return false };
    let on_table = of.last().is_none_or(|table| {
        object.mentions(table) || object.relation.as_ref().is_some_and(|relation| may_be(of, relation))
    });
    match said.class {
        // Columns of many tables have the same name.
        Class::Column => object.mentions(name) && on_table,
        // A foreign key names the table of the key that it stands on, not the key.
        Class::Constraint => {
            object.is(&["constraint"]) && of.last().is_some_and(|table| object.mentions(table))
        }
        Class::Relation | Class::Schema | Class::Sequence | Class::Routine | Class::Type => {
            object.mentions(name)
        }
        _ => false,
    }
}

/// An index that is renamed takes its constraint along.
fn is_key(object: &Object, index: &str) -> bool {
    object.is(&["constraint"]) && object.own() == index
}
