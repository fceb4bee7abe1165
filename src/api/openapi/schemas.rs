//! Rewrites the schemas of types for generators of clients. Pure.
//!
//! schemars writes a choice of constants for words, and a choice beside the common keys for flattened types. Generators make a type
//! of each choice, or lose the keys beside it. So words become an `enum`, each kind of a tagged type becomes a named type with all its
//! keys, and the keys of other choices become optional keys.

use serde_json::{Map, Value, json};

type Object = Map<String, Value>;

/// Rewrites every type. The kinds of a tagged type are added as types.
pub(super) fn for_generators(types: Object) -> Object {
    let mut rewritten = Map::new();
    for (name, mut schema) in types {
        for_each_object(&mut schema, &mut |schema| {
            words(schema);
            integer(schema);
        });
        if let Some(object) = schema.as_object_mut() {
            match tag(object) {
                Some(tag) => rewritten.extend(kinds(&name, object, &tag)),
                None => merge_choices(object),
            }
        }
        rewritten.insert(name, schema);
    }
    rewritten
}

/// Calls `rewrite` with every object, those within it first.
fn for_each_object(value: &mut Value, rewrite: &mut impl FnMut(&mut Object)) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| for_each_object(value, rewrite)),
        Value::Object(object) => {
            object.values_mut().for_each(|value| for_each_object(value, rewrite));
            rewrite(object);
        }
        _ => {}
    }
}

/// The keyword of a schema's choices.
fn keyword(schema: &Object) -> Option<&'static str> {
    ["oneOf", "anyOf"].into_iter().find(|&keyword| schema.get(keyword).is_some_and(Value::is_array))
}

fn choices(schema: &Object) -> &[Value] {
    keyword(schema).and_then(|keyword| schema[keyword].as_array()).map_or(&[], Vec::as_slice)
}

fn take_choices(schema: &mut Object) -> Vec<Object> {
    let choices = keyword(schema).and_then(|keyword| schema.remove(keyword));
    let Some(Value::Array(choices)) = choices else { return Vec::new() };
    choices
        .into_iter()
        .filter_map(|choice| if let Value::Object(choice) = choice { Some(choice) } else { None })
        .collect()
}

fn text<'a>(schema: &'a Object, key: &str) -> &'a str {
    schema.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Makes an `enum` of a choice of constant words, and one description of all theirs.
fn words(schema: &mut Object) {
    let is_word = |choice: &Value| choice.get("const").is_some_and(Value::is_string);
    if choices(schema).is_empty() || !choices(schema).iter().all(is_word) {
        return;
    }
    let choices = take_choices(schema);
    let list = described(
        text(schema, "description"),
        choices.iter().map(|choice| (text(choice, "const"), text(choice, "description"))),
    );
    let words: Vec<Value> = choices.iter().map(|choice| choice["const"].clone()).collect();
    schema.extend([
        ("type".into(), "string".into()),
        ("enum".into(), words.into()),
        ("description".into(), list.into()),
    ]);
}

/// A description with a list of words and what each means.
fn described<'a>(about: &str, words: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let lines: Vec<String> = words.map(|(word, meaning)| format!("- `{word}`: {meaning}")).collect();
    format!("{about}\n\n{}", lines.join("\n"))
}

/// The formats of `OpenAPI` know no unsigned integers.
fn integer(schema: &mut Object) {
    if text(schema, "format").starts_with("uint") {
        schema.insert("format".into(), "int64".into());
    }
}

/// The key that tells the kinds of a type apart.
fn tag(schema: &Object) -> Option<String> {
    let constants = |choice: &Value| -> Vec<String> {
        let properties = choice["properties"].as_object().into_iter().flatten();
        properties.filter(|(_, schema)| schema.get("const").is_some()).map(|(key, _)| key.clone()).collect()
    };
    let (first, others) = choices(schema).split_first()?;
    constants(first).into_iter().find(|key| others.iter().all(|choice| constants(choice).contains(key)))
}

/// Takes the kinds out of a tagged type, and refers to each by its name.
fn kinds(name: &str, schema: &mut Object, tag: &str) -> Object {
    let common = [take_object(schema, "properties"), take_object(schema, "required")];
    schema.remove("type");
    let (mut kinds, mut mapping) = (Map::new(), Map::new());
    for mut kind in take_choices(schema) {
        let Some(word) = kind["properties"][tag]["const"].as_str().map(str::to_owned) else { continue };
        let [properties, required] = common.clone();
        extend(&mut kind, properties, required);
        merge_choices(&mut kind);
        let name = format!("{name}{}", camel_case(&word));
        mapping.insert(word, reference(&name));
        kind.insert("title".into(), name.clone().into());
        kinds.insert(name, Value::Object(kind));
    }
    let references: Vec<Value> = kinds.keys().map(|name| json!({ "$ref": reference(name) })).collect();
    schema.insert("oneOf".into(), references.into());
    schema.insert("discriminator".into(), json!({ "propertyName": tag, "mapping": mapping }));
    kinds
}

fn reference(name: &str) -> Value {
    format!("#/components/schemas/{name}").into()
}

fn take_object(schema: &mut Object, key: &str) -> Value {
    schema.remove(key).unwrap_or_default()
}

/// Adds properties, and the names of those that are required.
fn extend(schema: &mut Object, properties: Value, required: Value) {
    if let (Value::Object(properties), Some(own)) = (properties, schema["properties"].as_object_mut()) {
        own.extend(properties);
    }
    if let (Value::Array(required), Some(own)) = (required, schema["required"].as_array_mut()) {
        own.extend(required);
    }
}

/// Makes the keys of the choices of an object keys of the object. Those that only some choices have are optional.
fn merge_choices(schema: &mut Object) {
    if choices(schema).is_empty() || !schema.contains_key("properties") {
        return;
    }
    let choices = take_choices(schema);
    let (mut properties, mut words): (Object, Vec<(String, String)>) = (Map::new(), Vec::new());
    let mut tag = None;
    for choice in &choices {
        for (key, property) in choice["properties"].as_object().into_iter().flatten() {
            let meaning = text(choice, "description").to_owned();
            if let Some(word) = property.get("const").and_then(Value::as_str) {
                words.push((word.to_owned(), meaning));
                tag = Some(key.clone());
            } else {
                let mut property = property.clone();
                if property.get("description").is_none() {
                    property["description"] = meaning.into();
                }
                properties.insert(key.clone(), property);
            }
        }
    }
    if let Some(tag) = tag {
        let list = described("One of these.", words.iter().map(|(word, meaning)| (word.as_str(), meaning.as_str())));
        let words: Vec<&str> = words.iter().map(|(word, _)| word.as_str()).collect();
        properties.insert(tag, json!({ "type": "string", "enum": words, "description": list }));
    }
    let is_required = |key: &String| {
        choices.iter().all(|choice| choice["required"].as_array().is_some_and(|keys| keys.contains(&json!(key))))
    };
    let required: Vec<&String> = properties.keys().filter(|key| is_required(key)).collect();
    let required = json!(required);
    extend(schema, Value::Object(properties), required);
}

/// `not-a-file` becomes `NotAFile`.
fn camel_case(word: &str) -> String {
    let capital = |part: &str| part.get(..1).map_or_else(String::new, |first| first.to_uppercase() + &part[1..]);
    word.split('-').map(capital).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(schema: &Value) -> Object {
        let Value::Object(types) = json!({ "T": schema }) else { unreachable!() };
        for_generators(types)
    }

    fn word(word: &str) -> Value {
        json!({ "const": word, "type": "string", "description": format!("It is {word}.") })
    }

    fn kind(word: &str, more: &Value) -> Value {
        let mut kind = json!({ "type": "object", "properties": { "kind": { "const": word } }, "required": ["kind"] });
        for (key, value) in more.as_object().unwrap() {
            kind["properties"][key] = value.clone();
        }
        kind
    }

    #[test]
    fn words_become_one_enum() {
        for keyword in ["oneOf", "anyOf"] {
            let types = rewritten(&json!({ "description": "How.", keyword: [word("a"), word("b")] }));
            let description = "How.\n\n- `a`: It is a.\n- `b`: It is b.";
            assert_eq!(types["T"], json!({ "type": "string", "enum": ["a", "b"], "description": description }));
        }
    }

    #[test]
    fn each_kind_becomes_a_type_with_the_common_keys() {
        let types = rewritten(&json!({
            "type": "object", "properties": { "at": { "type": "string" } }, "required": ["at"],
            "oneOf": [kind("a-b", &json!({})), kind("c", &json!({ "size": { "type": "integer", "format": "uint32" } }))],
        }));
        assert_eq!(
            types["T"],
            json!({
                "oneOf": [{ "$ref": "#/components/schemas/TAB" }, { "$ref": "#/components/schemas/TC" }],
                "discriminator": {
                    "propertyName": "kind",
                    "mapping": { "a-b": "#/components/schemas/TAB", "c": "#/components/schemas/TC" },
                },
            })
        );
        assert_eq!(types["TC"]["required"], json!(["kind", "at"]));
        let properties = json!({
            "kind": { "const": "c" }, "size": { "type": "integer", "format": "int64" }, "at": { "type": "string" },
        });
        assert_eq!(types["TC"]["properties"], properties);
    }

    #[test]
    fn keys_of_some_choices_become_optional() {
        let choice = |key: &str| json!({ "type": "object", "description": format!("By {key}."), "properties": { key: {} }, "required": [key] });
        let types = rewritten(&json!({
            "type": "object", "properties": { "at": {} }, "required": ["at"], "oneOf": [choice("code"), choice("signal")],
        }));
        let properties =
            json!({ "at": {}, "code": { "description": "By code." }, "signal": { "description": "By signal." } });
        assert_eq!(types["T"], json!({ "type": "object", "properties": properties, "required": ["at"] }));
    }

    #[test]
    fn the_kinds_within_a_kind_become_words() {
        let mut outer = kind("file", &json!({}));
        outer["anyOf"] = json!([
            { "properties": { "problem": { "const": "absent" } }, "required": ["problem"], "description": "Gone." },
            { "properties": { "problem": { "const": "closed" }, "detail": { "description": "Why." } },
              "required": ["problem", "detail"], "description": "Shut." },
        ]);
        let types = rewritten(&json!({ "anyOf": [outer] }));
        let file = &types["TFile"];
        assert_eq!(file["required"], json!(["kind", "problem"]));
        assert_eq!(file["properties"]["problem"]["enum"], json!(["absent", "closed"]));
        assert_eq!(file["properties"]["detail"], json!({ "description": "Why." }));
    }
}
