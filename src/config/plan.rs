//! Plans as files: TOML in, a plan that can be carried out, or what is wrong with it and where.
//!
//! A plan is taken as a whole or not at all, so anything that is wrong with it is an error; so is a key that is not known, which would
//! otherwise be left out of what was meant.

use std::collections::{BTreeMap, HashMap, HashSet};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fields::{Fields, described, quoted};
use super::position::Places;
use super::{Config, Finding, MAX_NOTED, Severity, tell};
use crate::agent::after::{Condition, closings, condition};
use crate::agent::name::{Key, Name, RunId};
pub use crate::agent::plan::MAX_SIZE;
use crate::agent::plan::{MOST_TASKS, Plan, PlanTask, Upstream};
use crate::agent::run::LONGEST_TASK;
use crate::sys::secret_bytes::SecretBytes;
use crate::text::printable::without_byte_order_mark;
use crate::text::suggest::nearest;

/// The keys of a plan.
const OF_PLAN: &[&str] = &["name", "stop_on_failure", "tasks"];

/// The keys of a task.
const OF_TASK: &[&str] = &["id", "agent", "prompt", "prompt_file", "after", "labels"];

/// Keys that say how work is merged.
const OF_MERGING: [&str; 3] = ["into", "base", "merge"];

/// The longest name of a plan, in characters.
const LONGEST_NAME: usize = 128;

/// What a name in a jcard stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// An agent that runs by itself.
    Agent,
    /// An agent that tasks are for.
    Template,
    /// An entry with an error.
    Invalid,
}

/// What plans can name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agents(BTreeMap<Key, Use>);

impl Agents {
    /// What this jcard declares.
    pub fn of(config: &Config) -> Self {
        let used = config.entries.iter().map(|entry| {
            let used = match &entry.spec {
                Ok(spec) if spec.policy.template.is_some() => Use::Template,
                Ok(_) => Use::Agent,
                Err(_) => Use::Invalid,
            };
            (entry.name.key(), used)
        });
        used.collect()
    }
}

impl FromIterator<(Key, Use)> for Agents {
    fn from_iter<T: IntoIterator<Item = (Key, Use)>>(used: T) -> Self {
        Self(used.into_iter().collect())
    }
}

/// What becomes of a `prompt_file`.
pub enum PromptFiles<'a> {
    /// It is refused: nobody reads a file that a plan in the spool names.
    Refused,
    /// This reads it. The error says why it cannot be.
    Read(&'a mut dyn FnMut(&str) -> Result<Vec<u8>, String>),
}

/// Reads a plan. `agents` is what it can name; `None` if that is not known.
///
/// # Errors
///
/// All that is wrong with it, in the order of the file.
pub fn parse(text: &[u8], agents: Option<&Agents>, files: PromptFiles<'_>) -> Result<Plan, Vec<Finding>> {
    let text = without_byte_order_mark(text);
    let text = std::str::from_utf8(text).map_err(|error| {
        let valid = text.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        let message = "the file is not text in UTF-8; save it as UTF-8";
        vec![Places::new(valid).finding(error.valid_up_to(), Severity::Error, message)]
    })?;
    let places = Places::new(text);
    // Only the bare message: the error's own display quotes the line.
    let document = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        vec![places.finding(at, Severity::Error, format!("the file is not valid TOML: {}", error.message()))]
    })?;
    Reader { places: &places, agents, files, findings: Vec::new(), ids: HashMap::new() }.read(document.get_ref())
}

/// Findings as one text, a line each; of very many, only the first.
pub fn told(findings: &[Finding]) -> String {
    tell(findings)
}

/// A task, as far as it is read.
struct Draft {
    id: RunId,
    agent: Name,
    prompt: SecretBytes,
    /// What it comes after, by name.
    after: Vec<(usize, RunId, Condition)>,
    labels: BTreeMap<String, String>,
}

struct Reader<'a, 'f> {
    places: &'a Places<'a>,
    agents: Option<&'a Agents>,
    files: PromptFiles<'f>,
    findings: Vec<Finding>,
    /// Where each id is in the plan, and the line it is at.
    ids: HashMap<String, (usize, usize)>,
}

impl Reader<'_, '_> {
    fn read(mut self, document: &DeTable<'_>) -> Result<Plan, Vec<Finding>> {
        let mut fields = Fields::new(document, 0, self.places);
        only(&mut fields, document, OF_PLAN, "a plan");
        let name = read_name(&mut fields);
        let stop_on_failure = fields.boolean("stop_on_failure").unwrap_or_default();
        self.findings.extend(fields.into_findings());
        let drafts = match document.get("tasks").map(|tasks| (tasks.span().start, tasks.get_ref())) {
            None => {
                self.error(0, "the plan has no tasks; write [[tasks]], in double brackets, above each".to_owned());
                Vec::new()
            }
            Some((at, DeValue::Array(tasks))) if tasks.len() > MOST_TASKS => {
                let message = format!("the plan has {} tasks; write at most {MOST_TASKS}", tasks.len());
                self.error(at, message);
                Vec::new()
            }
            Some((at, DeValue::Array(tasks))) if tasks.is_empty() => {
                self.error(at, "the plan has no tasks; write [[tasks]], in double brackets, above each".to_owned());
                Vec::new()
            }
            Some((_, DeValue::Array(tasks))) => {
                tasks.iter().enumerate().filter_map(|(place, task)| self.task(place, task)).collect()
            }
            Some((at, other)) => {
                let right = "write [[tasks]], in double brackets, above each";
                self.error(at, format!("`tasks` is {}; {right}", described(other)));
                Vec::new()
            }
        };
        let tasks = self.resolve(drafts);
        self.findings.sort_by_key(|finding| (finding.line, finding.column));
        if !self.findings.is_empty() {
            return Err(self.findings);
        }
        // Whatever would make it none was found.
        let fault = "the plan cannot be carried out";
        Plan::new(name, stop_on_failure, tasks).ok_or_else(|| vec![self.places.finding(0, Severity::Error, fault)])
    }

    fn error(&mut self, at: usize, message: String) {
        self.findings.push(self.places.finding(at, Severity::Error, message));
    }

    fn task(&mut self, place: usize, task: &Spanned<DeValue<'_>>) -> Option<Draft> {
        let at = task.span().start;
        let DeValue::Table(table) = task.get_ref() else {
            self.error(at, format!("a task is {}; write a table", described(task.get_ref())));
            return None;
        };
        let mut fields = Fields::new(table, at, self.places);
        only(&mut fields, table, OF_TASK, "a task");
        let id = self.id(place, &mut fields);
        let agent = self.agent(&mut fields);
        let prompt = self.prompt(&mut fields);
        let after = read_after(&mut fields);
        let labels = fields.labels("labels").unwrap_or_default();
        self.findings.extend(fields.into_findings());
        Some(Draft { id: id?, agent: agent?, prompt: prompt?, after, labels })
    }

    fn id(&mut self, place: usize, fields: &mut Fields<'_>) -> Option<RunId> {
        let at = fields.place("id");
        if !fields.is_set("id") {
            fields.error(at, "the task has no `id`; write one, which names its run");
            return None;
        }
        let text = fields.string("id")?;
        let id: RunId = text
            .parse()
            .map_err(|right| fields.error(at, format!("{} cannot be an `id`; {right}", quoted(text))))
            .ok()?;
        let line = self.places.locate(at).0;
        if let Some((_, other)) = self.ids.get(&id.folded()) {
            let right = "give each task an id of its own, which differs in more than its case";
            fields.error(at, format!("duplicate id {}, which the task at line {other} has; {right}", quoted(text)));
            return None;
        }
        self.ids.insert(id.folded(), (place, line));
        Some(id)
    }

    fn agent(&self, fields: &mut Fields<'_>) -> Option<Name> {
        let at = fields.place("agent");
        if !fields.is_set("agent") {
            fields.error(at, "the task has no `agent`; write the name of an agent with a table [agents.runs]");
            return None;
        }
        let name = fields.name("agent")?;
        let Some(Agents(agents)) = self.agents else { return Some(name) };
        let message = match agents.get(&name.key()) {
            Some(Use::Template) => return Some(name),
            Some(Use::Agent) => "takes no tasks; give it a table [agents.runs]".to_owned(),
            Some(Use::Invalid) => "has an error in its entry; agentd check says which".to_owned(),
            None => {
                let templates = agents.iter().filter(|(_, used)| **used == Use::Template).map(|(key, _)| key.as_str());
                let near = nearest(name.as_str(), templates.collect::<Vec<_>>());
                near.map_or_else(
                    || "is no agent; write the name of one with a table [agents.runs]".to_owned(),
                    |near| format!("is no agent; did you mean {near:?}?"),
                )
            }
        };
        fields.error(at, format!("{} {message}", quoted(name.as_str())));
        None
    }

    fn prompt(&mut self, fields: &mut Fields<'_>) -> Option<SecretBytes> {
        let (at, file_at) = (fields.place("prompt"), fields.place("prompt_file"));
        if fields.is_set("prompt") && fields.is_set("prompt_file") {
            fields.error(file_at, "the task has a `prompt` and a `prompt_file`; remove one of them");
            return None;
        }
        if fields.is_set("prompt") {
            let Some(text) = fields.peek("prompt") else {
                // It is no string, and this says so.
                fields.string("prompt");
                return None;
            };
            return checked(text.as_bytes(), "the `prompt`", at, fields);
        }
        if !fields.is_set("prompt_file") {
            fields.error(at, "the task has nothing to do; write a `prompt`");
            return None;
        }
        let path = fields.string("prompt_file")?;
        let read = match &mut self.files {
            PromptFiles::Refused => Err(
                "`prompt_file` cannot be in a plan in the spool, because agentd reads no file that a plan names; agentd run --plan \
                 puts its text into the plan"
                    .to_owned(),
            ),
            PromptFiles::Read(read) => read(path).map_err(|why| format!("the `prompt_file` {}: {why}", quoted(path))),
        };
        match read {
            Ok(text) => checked(&text, &format!("the `prompt_file` {}", quoted(path)), file_at, fields),
            Err(message) => {
                fields.error(file_at, message);
                None
            }
        }
    }

    /// Looks up what the tasks come after, and whether there is an order.
    fn resolve(&mut self, drafts: Vec<Draft>) -> Vec<PlanTask> {
        // Places among what could be read, which are those of the plan if all could.
        let places: HashMap<String, usize> =
            drafts.iter().enumerate().map(|(place, draft)| (draft.id.folded(), place)).collect();
        let names: Vec<String> = drafts.iter().map(|draft| draft.id.to_string()).collect();
        let (mut edges, mut ats) = (vec![Vec::new(); drafts.len()], vec![Vec::new(); drafts.len()]);
        let mut tasks = Vec::with_capacity(drafts.len());
        for (place, Draft { id, agent, prompt, after, labels }) in drafts.into_iter().enumerate() {
            let mut upstreams: Vec<Upstream> = Vec::new();
            let mut known = HashSet::new();
            for (at, other, condition) in after {
                let folded = other.folded();
                let name = quoted(other.as_str());
                match places.get(&folded) {
                    Some(&task) if task == place => {
                        self.error(at, format!("{name} cannot come after itself; remove it"));
                    }
                    Some(&task) if !known.insert(task) => {
                        self.error(at, format!("{name} is twice in `after`; remove one of them"));
                    }
                    Some(&task) => {
                        edges[place].push(task);
                        ats[place].push(at);
                        upstreams.push(Upstream { task, condition });
                    }
                    // It is there, and wrong.
                    None if self.ids.contains_key(&folded) => {}
                    None => {
                        let near = (self.findings.len() < MAX_NOTED)
                            .then(|| nearest(other.as_str(), names.iter().map(String::as_str)))
                            .flatten();
                        let right = near.map_or_else(
                            || "write the `id` of another task of the plan".to_owned(),
                            |near| format!("did you mean {near:?}?"),
                        );
                        self.error(at, format!("no task has the id {name}; {right}"));
                    }
                }
            }
            tasks.push(PlanTask { id, agent, prompt, after: upstreams, labels });
        }
        for closing in closings(&edges) {
            let path = closing.path.shown(|task| names[task].clone());
            let message = format!("tasks wait for each other: {path}; remove one of these from an `after`");
            self.error(ats[closing.node][closing.edge], message);
        }
        tasks
    }
}

fn read_name(fields: &mut Fields<'_>) -> Option<String> {
    let name = fields.string("name")?;
    let is_short = name.chars().count() <= LONGEST_NAME;
    if !is_short || name.chars().any(char::is_control) {
        let at = fields.place("name");
        fields.error(at, format!("the `name` is no name; write one line of at most {LONGEST_NAME} characters"));
    }
    Some(name.to_owned())
}

/// Reads which tasks come before one.
fn read_after(fields: &mut Fields<'_>) -> Vec<(usize, RunId, Condition)> {
    let mut after = Vec::new();
    for (at, text) in fields.located_strings("after").unwrap_or_default() {
        let (id, word) = text.split_once(':').unwrap_or((text, Condition::Completed.word()));
        let right = match (id.parse::<RunId>(), condition(word)) {
            (Ok(id), Ok(condition @ (Condition::Completed | Condition::Ended))) => {
                after.push((at, id, condition));
                continue;
            }
            (Ok(id), Ok(Condition::Running | Condition::Ready)) => {
                format!("a task comes after the end of others; write \"{id}\" or \"{id}:ended\"")
            }
            (Ok(_), Err(_)) => "the condition is `completed` or `ended`".to_owned(),
            (Err(right), _) => right.to_string(),
        };
        fields.error(at, format!("{} cannot be in `after`; {right}", quoted(text)));
    }
    after
}

/// The text of a task, if it can be one.
fn checked(text: &[u8], what: &str, at: usize, fields: &mut Fields<'_>) -> Option<SecretBytes> {
    let message = if text.len() > LONGEST_TASK {
        format!("{what} is {} bytes long; a task has at most {LONGEST_TASK} (1 MiB)", text.len())
    } else if text.contains(&0) {
        format!("{what} has a NUL character; remove it, no program can be given one")
    } else if std::str::from_utf8(text).is_err() {
        format!("{what} is not text in UTF-8; save it as UTF-8")
    } else if text.trim_ascii().is_empty() {
        format!("{what} is nothing but white space; say what there is to do")
    } else {
        return Some(SecretBytes::from(text.to_vec()));
    };
    fields.error(at, message);
    None
}

/// Records errors about keys that are not known.
fn only(fields: &mut Fields<'_>, table: &DeTable<'_>, known: &[&str], whose: &str) {
    for key in table.keys() {
        let (at, key) = (key.span().start, key.get_ref().as_ref());
        if known.contains(&key) {
            continue;
        }
        let right = match nearest(key, known.iter().copied()) {
            _ if OF_MERGING.contains(&key) => "agentd does not merge what tasks have done; remove it".to_owned(),
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("{whose} has {}", known.join(", ")),
        };
        fields.error(at, format!("unknown key {}; {right}", quoted(key)));
    }
}

/// A plan as the file that the spool takes: every prompt is in it.
///
/// # Errors
///
/// It is larger than a plan may be. This is its size in bytes.
pub fn written(plan: &Plan) -> Result<SecretBytes, u64> {
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        text.push_str(key);
        text.push_str(&value);
        text.push('\n');
    };
    if let Some(name) = plan.name() {
        line("name = ", string(name));
    }
    if plan.stops_on_failure() {
        line("stop_on_failure = ", "true".to_owned());
    }
    for task in plan.tasks() {
        line("\n[[tasks]]", String::new());
        line("id = ", string(task.id.as_str()));
        line("agent = ", string(task.agent.as_str()));
        let after = task.after.iter().map(|upstream| {
            let id = plan.tasks()[upstream.task].id.as_str();
            string(&match upstream.condition {
                Condition::Completed => id.to_owned(),
                condition => format!("{id}:{}", condition.word()),
            })
        });
        line("after = ", format!("[{}]", after.collect::<Vec<_>>().join(", ")));
        let labels = task.labels.iter().map(|(key, value)| format!("{} = {}", string(key), string(value)));
        line("labels = ", format!("{{{}}}", labels.collect::<Vec<_>>().join(", ")));
        line("prompt = ", string(&String::from_utf8_lossy(task.prompt.as_slice())));
    }
    let size = u64::try_from(text.len()).unwrap_or(u64::MAX);
    if size > MAX_SIZE { Err(size) } else { Ok(SecretBytes::from(text.into_bytes())) }
}

/// A text as a string of TOML: that of JSON, but that TOML wants one more character escaped.
fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::agent::name::key;

    fn agents() -> Agents {
        [("fixer", Use::Template), ("watcher", Use::Agent), ("broken", Use::Invalid)]
            .into_iter()
            .map(|(name, used)| (key(name), used))
            .collect()
    }

    fn read(text: &str) -> Result<Plan, Vec<Finding>> {
        parse(text.as_bytes(), Some(&agents()), PromptFiles::Refused)
    }

    fn answers(text: &str) -> Vec<String> {
        read(text).unwrap_err().iter().map(ToString::to_string).collect()
    }

    /// Tasks with these ids, and these lines.
    fn tasks(tasks: &[(&str, &str)]) -> String {
        let task = |(id, lines): &(&str, &str)| {
            format!("[[tasks]]\nid = {id:?}\nagent = \"fixer\"\nprompt = \"Do it.\"\n{lines}\n")
        };
        tasks.iter().map(task).collect()
    }

    #[test]
    fn a_plan_is_read() {
        let text = r#"
            name = "Release 2.4"
            stop_on_failure = true
            [[tasks]]
            id = "lint"
            agent = "fixer"
            prompt = "Run the linter."
            [[tasks]]
            id = "Test"
            agent = "FIXER"
            prompt = "Run the tests."
            labels = { team = "web" }
            after = ["LINT"]
            [[tasks]]
            id = "report"
            agent = "fixer"
            prompt = "Say how it went."
            after = ["test:ended", "lint:completed"]
        "#;
        let plan = read(text).unwrap();
        assert_eq!((plan.name(), plan.stops_on_failure()), (Some("Release 2.4"), true));
        assert_eq!(plan.layers(), [[0], [1], [2]]);
        let report = &plan.tasks()[2];
        assert_eq!(report.after[0], Upstream { task: 1, condition: Condition::Ended });
        assert_eq!(plan.tasks()[1].labels, BTreeMap::from([("team".to_owned(), "web".to_owned())]));
        let again = written(&plan).unwrap();
        assert_eq!(parse(again.as_slice(), Some(&agents()), PromptFiles::Refused).unwrap(), plan);
    }

    #[rstest]
    #[case("", "1:1: the plan has no tasks; write [[tasks]]")]
    #[case("tasks = []", "1:9: the plan has no tasks; write [[tasks]]")]
    #[case("tasks = 1", "1:9: `tasks` is ")]
    #[case("[tasks]\nid = \"a\"", "1:1: `tasks` is a table; write [[tasks]]")]
    #[case("tasks = [1]", "1:10: a task is ")]
    #[case("x = ", "1:5: the file is not valid TOML: ")]
    fn what_has_no_tasks_is_no_plan(#[case] text: &str, #[case] expected: &str) {
        let answers = answers(text);
        assert!(answers.len() == 1 && answers[0].starts_with(expected), "{answers:?}");
    }

    #[rstest]
    #[case("id = \"a\"\nagent = \"fixer\"", "1:1: the task has nothing to do; write a `prompt`")]
    #[case("id = \"a\"\nprompt = \"x\"", "1:1: the task has no `agent`; ")]
    #[case("agent = \"fixer\"\nprompt = \"x\"", "1:1: the task has no `id`; ")]
    #[case(
        "id = \"a.b\"\nagent = \"fixer\"\nprompt = \"x\"",
        "2:6: \"a.b\" cannot be an `id`; the id of a run has 1 to 40"
    )]
    #[case("id = 1\nagent = \"fixer\"\nprompt = \"x\"", "2:6: `id` is ")]
    #[case(
        "id = \"a\"\nagent = \"watcher\"\nprompt = \"x\"",
        "3:9: \"watcher\" takes no tasks; give it a table [agents.runs]"
    )]
    #[case("id = \"a\"\nagent = \"broken\"\nprompt = \"x\"", "3:9: \"broken\" has an error in its entry; ")]
    #[case("id = \"a\"\nagent = \"fixr\"\nprompt = \"x\"", "3:9: \"fixr\" is no agent; did you mean \"fixer\"?")]
    #[case("id = \"a\"\nagent = \"nobody\"\nprompt = \"x\"", "3:9: \"nobody\" is no agent; write the name of one")]
    #[case("id = \"a\"\nagent = \"fixer\"\nprompt = 1", "4:10: `prompt` is ")]
    #[case("id = \"a\"\nagent = \"fixer\"\nprompt = \" \"", "4:10: the `prompt` is nothing but white space; ")]
    #[case("id = \"a\"\nagent = \"fixer\"\nprompt = \"\\u0000\"", "4:10: the `prompt` has a NUL character; ")]
    #[case(
        "id = \"a\"\nagent = \"fixer\"\nprompt_file = \"x.md\"",
        "4:15: `prompt_file` cannot be in a plan in the spool, "
    )]
    #[case(
        "id = \"a\"\nagent = \"fixer\"\nprompt = \"x\"\nprompt_file = \"y\"",
        "5:15: the task has a `prompt` and a `prompt_file`; remove one of them"
    )]
    #[case(
        "id = \"a\"\nagent = \"fixer\"\npromt = \"x\"\nprompt = \"y\"",
        "4:1: unknown key \"promt\"; did you mean `prompt`?"
    )]
    #[case(
        "id = \"a\"\nagent = \"fixer\"\nprompt = \"x\"\nmerge = true",
        "5:1: unknown key \"merge\"; agentd does not merge"
    )]
    #[case(
        "id = \"a\"\nagent = \"fixer\"\nprompt = \"x\"\nlabels = { \"a b\" = \"x\" }",
        "5:12: \"a b\" cannot be the key of a label; "
    )]
    fn a_mistake_in_a_task_is_told_with_its_place(#[case] lines: &str, #[case] expected: &str) {
        let answers = answers(&format!("[[tasks]]\n{lines}\n"));
        assert!(answers.len() == 1 && answers[0].starts_with(expected), "{answers:?}");
    }

    #[rstest]
    #[case("into = \"main\"", "1:1: unknown key \"into\"; agentd does not merge what tasks have done; remove it")]
    #[case("stop_on_fail = true", "1:1: unknown key \"stop_on_fail\"; did you mean `stop_on_failure`?")]
    #[case("color = 1", "1:1: unknown key \"color\"; a plan has name, stop_on_failure, tasks")]
    #[case("stop_on_failure = \"yes\"", "1:19: `stop_on_failure` is a string; write true or false")]
    #[case("name = \"a\\nb\"", "1:8: the `name` is no name; ")]
    fn a_mistake_in_the_head_of_a_plan_is_told(#[case] line: &str, #[case] expected: &str) {
        let answers = answers(&format!("{line}\n{}", tasks(&[("a", "")])));
        assert!(answers.len() == 1 && answers[0].starts_with(expected), "{answers:?}");
    }

    #[rstest]
    #[case(&[("a", ""), ("A", "")], "7:6: duplicate id \"A\", which the task at line 2 has; ")]
    #[case(&[("a", "after = [\"a\"]")], "5:10: \"a\" cannot come after itself; remove it")]
    #[case(&[("a", "after = [\"lnit\"]"), ("lint", "")], "5:10: no task has the id \"lnit\"; did you mean \"lint\"?")]
    #[case(&[("a", "after = [\"other\"]")], "5:10: no task has the id \"other\"; write the `id` of another task")]
    #[case(&[("a", ""), ("b", "after = [\"a\", \"A:ended\"]")], "10:15: \"A\" is twice in `after`; remove one")]
    #[case(&[("a", ""), ("b", "after = [\"a:running\"]")], "10:10: \"a:running\" cannot be in `after`; a task comes after the end")]
    #[case(&[("a", ""), ("b", "after = [\"a:done\"]")], "10:10: \"a:done\" cannot be in `after`; the condition is")]
    #[case(
        &[("a", "after = [\"c\"]"), ("b", "after = [\"a\"]"), ("c", "after = [\"b:ended\"]")],
        "10:10: tasks wait for each other: a → c → b → a; remove one of these from an `after`"
    )]
    fn an_order_that_cannot_be_is_told(#[case] of: &[(&str, &str)], #[case] expected: &str) {
        let answers = answers(&tasks(of));
        assert!(answers.len() == 1 && answers[0].starts_with(expected), "{answers:?}");
    }

    #[test]
    fn very_many_tasks_are_refused_in_one_line() {
        let ids: Vec<String> = (0..10_000).map(|number| format!("t{number}")).collect();
        let many: Vec<(&str, &str)> = ids.iter().map(|id| (id.as_str(), "")).collect();
        assert_eq!(answers(&tasks(&many)), ["1:1: the plan has 10000 tasks; write at most 1000"]);
        assert_eq!(read(&tasks(&many[..1_000])).unwrap().tasks().len(), 1_000);
    }

    #[test]
    fn a_task_that_is_too_long_is_refused() {
        let text =
            |length: usize| format!("[[tasks]]\nid = \"a\"\nagent = \"fixer\"\nprompt = {:?}\n", "x".repeat(length));
        assert_eq!(
            answers(&text(LONGEST_TASK + 1)),
            ["4:10: the `prompt` is 1048577 bytes long; a task has at most 1048576 (1 MiB)"]
        );
        assert!(read(&text(LONGEST_TASK)).is_ok());
    }

    #[test]
    fn a_prompt_file_is_read_by_whoever_may() {
        let text = "[[tasks]]\nid = \"a\"\nagent = \"any\"\nprompt_file = \"x.md\"\n";
        let mut read = |path: &str| if path == "x.md" { Ok(b"From a file.".to_vec()) } else { Err("no".to_owned()) };
        let plan = parse(text.as_bytes(), None, PromptFiles::Read(&mut read)).unwrap();
        assert_eq!(plan.tasks()[0].prompt.as_slice(), b"From a file.");
        let mut fails = |_: &str| Err("does not exist".to_owned());
        let findings = parse(text.as_bytes(), None, PromptFiles::Read(&mut fails)).unwrap_err();
        assert_eq!(told(&findings), "4:15: the `prompt_file` \"x.md\": does not exist");
    }

    #[test]
    fn a_plan_with_too_much_in_it_is_not_written() {
        let prompt = "x".repeat(LONGEST_TASK);
        let task = |number| format!("[[tasks]]\nid = \"t{number}\"\nagent = \"fixer\"\nprompt = \"{prompt}\"\n");
        let many: Vec<String> = (0..5).map(task).collect();
        assert!(written(&read(&many.concat()).unwrap()).unwrap_err() > MAX_SIZE);
    }

    proptest! {
        #[test]
        fn whatever_a_prompt_says_it_is_read_as_it_was_written(prompt in "\\PC{0,20}[ -~\\n\\t\"\\\\\u{7f}\u{1}]{1,20}x") {
            let text = format!("[[tasks]]\nid = \"a\"\nagent = \"fixer\"\nprompt = {}\n", string(&prompt));
            let plan = read(&text).unwrap();
            prop_assert_eq!(plan.tasks()[0].prompt.as_slice(), prompt.as_bytes());
            let again = written(&plan).unwrap();
            prop_assert_eq!(parse(again.as_slice(), None, PromptFiles::Refused).unwrap(), plan);
        }

        #[test]
        fn no_text_breaks_the_reader(text in "(\\[\\[tasks\\]\\]|id|after|agent|prompt| = |\"[a-c:]{0,4}\"|\\[|\\]|,|\n){0,40}") {
            let _ = read(&text);
        }
    }
}
