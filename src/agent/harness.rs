//! Harnesses: which binary, how its command line takes a prompt, and what else is known of it.
//!
//! A prompt is data, and command lines have places where data is taken for something else: an option if it begins with `-`, a
//! subcommand if it is one's name, the content of a file if it begins with `@`. Each preset therefore knows a form of its command
//! line in which a prompt cannot be anything but a prompt. Where an earlier version of agentd used another form, that form is kept
//! for the prompts that it is right for, so that nobody's agents change.
//!
//! What is known stands in the files of `harness/shipped`, which are compiled in. A jcard can change an entry, or add one.

mod approval;
mod form;
pub mod hooks;
pub mod keys;
pub mod rule;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use toml::de::DeTable;

use self::form::{Form, Place};
use self::rule::Rule;
use crate::agent::stream_kind::StreamKind;
use crate::sys::secret_bytes::SecretBytes;

pub use self::approval::Approval;
use self::approval::Approvals;
pub use self::hooks::HookKind;

/// An entry of the table of harnesses. Its keys are described in [`keys::KEYS`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a key of the table")]
pub struct Harness {
    /// As written in `harness = "…"`.
    pub name: Arc<str>,
    /// The default binary.
    pub binary: String,
    alone: Form,
    forms: Forms,
    stays_by_default: bool,
    subcommands: Vec<String>,
    looks_behind_dashes: bool,
    prompt_options: Vec<String>,
    unspeakable: Vec<String>,
    results: Vec<String>,
    stream: Option<StreamKind>,
    closing_record: bool,
    trust: Trust,
    max_cost: Vec<String>,
    session_new: Vec<String>,
    session_resume: Vec<String>,
    session_proof: String,
    session_learned: bool,
    hooks: Option<HookKind>,
    approvals: Approvals,
    approval_options: Vec<String>,
    approval_details: Vec<String>,
    asks: bool,
    skills_dir: String,
    /// What the home of a sandbox is filled with when it is made, as paths below the user's home: the login, and what its user
    /// configured it with. Nothing that it keeps of its work, such as transcripts, and no program that it would install.
    pub home_keep: Vec<String>,
    login_files: Vec<String>,
    auth: Vec<String>,
    variables: BTreeMap<String, String>,
    variables_at_terminal: BTreeMap<String, String>,
    own_sandbox: OwnSandbox,
    rules: Arc<[Rule]>,
}

/// The command lines with a prompt. Those that are not there are like another one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Forms {
    /// When the entry says nothing of `interactive`.
    prompt: Option<Form>,
    prompt_guarded: Option<Form>,
    /// `interactive = false`.
    ends: Option<Form>,
    ends_guarded: Option<Form>,
    /// `interactive = true`.
    stays: Option<Form>,
    stays_guarded: Option<Form>,
}

/// The sandbox of a harness itself. In a sandbox of agentd it cannot be made, or keeps nothing out that is not out already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OwnSandbox {
    /// The words that do without it.
    off: Vec<String>,
    /// Words of a command line that say something about it: then it is as they say. Those that end in `=` have something after it.
    words: Vec<String>,
}

/// What decides whether a harness has succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Its exit status, and its stream where that says that it failed.
    #[default]
    Status,
    /// Its stream, also where that says that it succeeded and the exit status is not 0.
    Stream,
}

/// A conversation that a command line names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session<'a> {
    /// It begins, under this name.
    New(&'a str),
    /// It goes on.
    Resume(&'a str),
}

/// What an agent wants of its harness's command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choices<'a> {
    /// Whether it stays at its terminal; `None` is as the preset has always been.
    pub interactive: Option<bool>,
    /// Whether it prints a machine-readable stream, and then ends.
    pub results: bool,
    /// What it may do without asking.
    pub approval: Option<Approval>,
    /// Whether it runs in a sandbox of agentd.
    pub in_sandbox: bool,
    /// The conversation.
    pub session: Option<Session<'a>>,
    /// The most that it may cost, in dollars as a decimal number.
    pub max_cost: Option<&'a str>,
}

impl Choices<'_> {
    /// Whether it stays at its terminal.
    fn stays(&self) -> Option<bool> {
        if self.results { Some(false) } else { self.interactive }
    }
}

/// The entries that are compiled in, with their names, in the order in which messages list them.
const SHIPPED_TEXTS: [(&str, &str); 9] = [
    ("claude-code", include_str!("harness/shipped/claude-code.toml")),
    ("opencode", include_str!("harness/shipped/opencode.toml")),
    ("gemini-cli", include_str!("harness/shipped/gemini-cli.toml")),
    ("codex", include_str!("harness/shipped/codex.toml")),
    ("pi", include_str!("harness/shipped/pi.toml")),
    ("qwen-code", include_str!("harness/shipped/qwen-code.toml")),
    ("kimi", include_str!("harness/shipped/kimi.toml")),
    ("aider", include_str!("harness/shipped/aider.toml")),
    ("custom", include_str!("harness/shipped/custom.toml")),
];

/// Read once. A test proves that nothing is wrong with them.
static SHIPPED: LazyLock<Vec<Arc<Harness>>> = LazyLock::new(|| {
    let read = |(name, text): &(&str, &str)| {
        let mut harness = Harness::named(name);
        if let Ok(document) = DeTable::parse(text) {
            keys::read(&mut harness, document.get_ref());
        }
        Arc::new(harness)
    };
    SHIPPED_TEXTS.iter().map(read).collect()
});

/// Every preset there is.
pub fn shipped() -> &'static [Arc<Harness>] {
    &SHIPPED
}

/// A command line, and which of its arguments holds the prompt.
pub type CommandLine = (Vec<SecretBytes>, Option<usize>);

impl Harness {
    /// The preset of that name.
    pub fn find(name: &str) -> Option<Arc<Self>> {
        shipped().iter().find(|harness| &*harness.name == name).cloned()
    }

    /// One of which nothing is known but its name: not even what it runs.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            binary: String::new(),
            alone: Form { before_args: Vec::new(), prompt: Place::Nowhere },
            forms: Forms::default(),
            stays_by_default: false,
            subcommands: Vec::new(),
            looks_behind_dashes: false,
            prompt_options: Vec::new(),
            unspeakable: Vec::new(),
            results: Vec::new(),
            stream: None,
            closing_record: false,
            trust: Trust::default(),
            max_cost: Vec::new(),
            session_new: Vec::new(),
            session_resume: Vec::new(),
            session_proof: String::new(),
            session_learned: false,
            hooks: None,
            approvals: Approvals::default(),
            approval_options: Vec::new(),
            approval_details: Vec::new(),
            asks: false,
            skills_dir: String::new(),
            home_keep: Vec::new(),
            login_files: Vec::new(),
            auth: Vec::new(),
            variables: BTreeMap::new(),
            variables_at_terminal: BTreeMap::new(),
            own_sandbox: OwnSandbox::default(),
            rules: Arc::default(),
        }
    }

    /// Whether it stays at its terminal when it is done, with a prompt or without one.
    pub fn stays(&self, interactive: Option<bool>, has_prompt: bool) -> bool {
        !has_prompt || interactive.unwrap_or(self.stays_by_default)
    }

    /// Whether the entry's author alone decides how the command line takes a prompt.
    pub fn is_custom(&self) -> bool {
        self.forms == Forms::default()
    }

    /// Whether agentd comes with it, changed or not.
    pub fn is_preset(&self) -> bool {
        Self::find(&self.name).is_some()
    }

    /// Whether it differs from what agentd comes with.
    pub fn is_of_jcard(&self) -> bool {
        Self::find(&self.name).is_none_or(|shipped| *shipped != *self)
    }

    /// The words for a machine-readable stream; empty if it has none.
    pub fn results(&self) -> &[String] {
        &self.results
    }

    /// The form of that stream, if agentd can read it.
    pub fn stream(&self) -> Option<StreamKind> {
        self.stream
    }

    /// Whether a stream without a closing record has failed.
    pub fn closing_record(&self) -> bool {
        self.closing_record
    }

    /// What decides whether it has succeeded.
    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// The words that limit the cost; empty if it has none.
    pub fn max_cost_words(&self, cost: &str) -> Vec<String> {
        filled_in(&self.max_cost, "${COST}", cost)
    }

    /// The words for a conversation; empty if it has none.
    pub fn session_words(&self, session: Session<'_>) -> Vec<String> {
        match session {
            Session::New(id) => filled_in(&self.session_new, "${SESSION}", id),
            Session::Resume(id) => filled_in(&self.session_resume, "${SESSION}", id),
        }
    }

    /// Whether an attempt can resume the conversation of the one before.
    pub fn has_conversations(&self) -> bool {
        !self.session_resume.is_empty() && (self.session_learned || !self.session_new.is_empty())
    }

    /// The word of `args` that names a conversation itself.
    pub fn says_session<'a>(&self, args: &'a [String]) -> Option<&'a str> {
        const OWN: [&str; 2] = ["--continue", "--resume"];
        let own = self.session_new.iter().chain(&self.session_resume).filter(|word| word.starts_with('-'));
        let options: Vec<&str> = own.map(String::as_str).chain(OWN).collect();
        let names = |word: &&String| options.contains(&word.split('=').next().unwrap_or_default());
        args.iter().find(names).map(String::as_str)
    }

    /// The word of `args` that has the harness do what its prompt says, and end.
    pub fn says_prompt<'a>(&self, args: &'a [String]) -> Option<&'a str> {
        let after = match self.forms.prompt.as_ref().filter(|_| !self.stays_by_default).map(|form| &form.prompt) {
            Some(Place::After(words)) => words.as_slice(),
            Some(Place::JoinedTo(_) | Place::Nowhere) | None => &[],
        };
        let is_it = |word: &&String| word.starts_with('-') && word.as_str() != "--" && after.contains(word);
        args.iter().find(is_it).or(args.last().filter(|last| self.prompt_options.contains(last))).map(String::as_str)
    }

    /// The path, with `${HOME}`, `${SESSION}` and wildcards, of a file that is there if a conversation can be resumed.
    pub fn session_proof(&self) -> Option<&str> {
        Some(self.session_proof.as_str()).filter(|path| !path.is_empty())
    }

    /// Whether the harness itself names its conversations.
    pub fn session_learned(&self) -> bool {
        self.session_learned
    }

    /// How it tells what it does.
    pub fn hooks(&self) -> Option<HookKind> {
        self.hooks
    }

    /// The folder that it reads skills from, with `${HOME}`.
    pub fn skills_dir(&self) -> Option<&str> {
        Some(self.skills_dir.as_str()).filter(|path| !path.is_empty())
    }

    /// The files of its login below the home, with wildcards.
    pub fn login_files(&self) -> &[String] {
        &self.login_files
    }

    /// The variables that hold its credential, the first of which counts.
    pub fn auth(&self) -> &[String] {
        &self.auth
    }

    /// What texts that it prints mean.
    pub fn rules(&self) -> &Arc<[Rule]> {
        &self.rules
    }

    /// The words for what it may do without asking; `None` if it has no way to say that.
    pub fn approval_words(&self, approval: Approval) -> Option<&[String]> {
        self.approvals.0.get(&approval).map(Vec::as_slice)
    }

    /// Those that it has words for.
    pub fn approvals(&self) -> impl Iterator<Item = Approval> {
        self.approvals.0.keys().copied()
    }

    /// The word of an entry that says what it may do without asking, so that the words for `approval` would contradict it.
    pub fn says_approval<'a>(&self, approval: Approval, command: &'a [String], args: &'a [String]) -> Option<&'a str> {
        let own = self.approval_words(approval).unwrap_or_default().iter().filter(|word| word.starts_with('-'));
        self.has_option(&self.approval_options.iter().chain(own), command, args)
    }

    /// Whether it asks for permission although nobody is there, and its entry says nothing of that.
    pub fn asks(&self, command: &[String], args: &[String]) -> bool {
        let options = self.approval_options.iter().chain(&self.approval_details);
        self.asks && self.has_option(&options, command, args).is_none()
    }

    /// The first word of an entry that is one of these options.
    fn has_option<'a, 'b>(
        &self,
        options: &(impl Iterator<Item = &'b String> + Clone),
        command: &'a [String],
        args: &'a [String],
    ) -> Option<&'a str> {
        let is_option = |word: &&String| {
            // `--option=value` in a table is that option.
            let name = |option: &str| option.split('=').next().unwrap_or_default().len();
            options.clone().any(|option| {
                let rest = word.strip_prefix(&option[..name(option)]);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
            })
        };
        self.own_words(command).iter().chain(args).find(is_option).map(String::as_str)
    }

    /// `args` with the words for what it may do without asking, unless the entry says that itself.
    pub fn args_with_approval<'a>(
        &self,
        approval: Option<Approval>,
        command: &[String],
        args: &'a [String],
    ) -> Cow<'a, [String]> {
        let (words, at) = (self.words_for_approval(approval, command, args), self.after_subcommand(args));
        with_words(words, at, args)
    }

    fn words_for_approval(&self, approval: Option<Approval>, command: &[String], args: &[String]) -> &[String] {
        let approval = approval.filter(|&approval| self.says_approval(approval, command, args).is_none());
        approval.and_then(|approval| self.approval_words(approval)).unwrap_or_default()
    }

    /// Whether a prompt can be given to it that it stays at its terminal with, or ends after.
    pub fn takes_prompt(&self, interactive: Option<bool>) -> bool {
        self.form(false, interactive, b"words").prompt != Place::Nowhere
    }

    /// Whether an agent with this prompt stays at its terminal when it is done, because the entry does not say that it must end.
    pub fn stays_open(&self, args: &[String], interactive: Option<bool>, prompt: &[u8]) -> bool {
        interactive.is_none() && self.stays_by_default && !self.may_mistake(prompt) && !self.ends_in_option(args)
    }

    /// Why an agent cannot be given this prompt.
    pub fn refuses(&self, prompt: &[u8]) -> Option<String> {
        let is_unspeakable = self.unspeakable.iter().any(|word| word.as_bytes() == prompt);
        let name = &self.name;
        is_unspeakable
            .then(|| format!("{name} takes the prompt for an order to read its terminal; write the prompt in words"))
    }

    /// Whether it makes a sandbox itself, which it is told to do without in one of agentd.
    pub fn has_own_sandbox(&self) -> bool {
        !self.own_sandbox.off.is_empty()
    }

    /// What an entry says about the harness's own sandbox, if that may be made in one of agentd, where it fails.
    pub fn asks_for_own_sandbox<'a>(&self, command: &'a [String], args: &'a [String]) -> Option<&'a str> {
        let OwnSandbox { off, words } = &self.own_sandbox;
        let [_, value] = off.as_slice() else { return None };
        let words_given: Vec<&str> = self.own_words(command).iter().chain(args).map(String::as_str).collect();
        let at = words_given.iter().position(|word| says_of_sandbox(words, word))?;
        let (word, next) = (words_given[at], words_given.get(at + 1).copied());
        let is_off = word.contains(value.as_str()) || word.contains("bypass") || word == "--yolo";
        (!is_off && next != Some(value.as_str())).then_some(word)
    }

    /// The words that do without the harness's own sandbox, unless the entry says something of that.
    fn words_in_sandbox(&self, command: &[String], args: &[String]) -> &[String] {
        let OwnSandbox { off, words } = &self.own_sandbox;
        let is_said = self.own_words(command).iter().chain(args).any(|word| says_of_sandbox(words, word));
        if is_said { &[] } else { off }
    }

    /// Where options stand in `args` that have a subcommand: behind it.
    fn after_subcommand(&self, args: &[String]) -> usize {
        usize::from(args.first().is_some_and(|word| self.is_subcommand(word.as_bytes())))
    }

    /// `args` with the words for the choices. `at` is where they stand.
    fn chosen_args<'a>(
        &self,
        choices: &Choices<'_>,
        command: &[String],
        args: &'a [String],
        at: usize,
    ) -> Cow<'a, [String]> {
        // The words for the approval may be about the harness's own sandbox.
        let args = with_words(self.words_for_approval(choices.approval, command, args), at, args);
        let sandbox = if choices.in_sandbox { self.words_in_sandbox(command, &args) } else { &[] };
        let max_cost = choices.max_cost.map(|cost| self.max_cost_words(cost)).unwrap_or_default();
        let results = if choices.results { self.results.as_slice() } else { &[] };
        let words = [results, &max_cost, sandbox].concat();
        if words.is_empty() { args } else { Cow::Owned(with_words(&words, at, &args).into_owned()) }
    }

    /// The command line of `command` and `args`: the preset's own words go where they belong, unless they are there already.
    ///
    /// The words for the choices stand before `args`, so that these have the last word; those for the conversation after them,
    /// because they may be a subcommand.
    pub fn command_line(
        &self,
        command: &[String],
        args: &[String],
        choices: &Choices<'_>,
        prompt: Option<&SecretBytes>,
    ) -> CommandLine {
        let interactive = choices.stays();
        let form = match prompt {
            Some(prompt) => self.form(command.len() + args.len() > 1, interactive, prompt.as_slice()),
            None => &self.alone,
        };
        let is_flag = |word: &&String| word.starts_with('-');
        let (flags, subcommands): (Vec<&String>, Vec<&String>) = form.before_args.iter().partition(is_flag);
        let is_in_command = |word: &String| self.own_words(command).contains(word);
        // Whoever wrote `args = ["exec"]` meant the subcommand that the preset writes itself.
        let args = match args.split_first() {
            Some((first, rest)) if subcommands.contains(&first) => rest,
            _ => args,
        };
        // What is left of an option for the prompt stands right before it.
        let (args, option) = match args.split_last() {
            Some((_, rest)) if !form.is_bare() && self.ends_in_option(args) => (rest, None),
            Some((last, rest)) if prompt.is_some() && self.ends_in_option(args) => (rest, Some(last)),
            _ => (args, None),
        };
        // A subcommand of `args` that follows one of the preset takes few options.
        let is_below = !subcommands.is_empty() || !self.own_words(command).is_empty();
        let at = if is_below { 0 } else { self.after_subcommand(args) };
        let args = self.chosen_args(choices, command, args, at);
        let session = choices.session.map(|session| self.session_words(session)).unwrap_or_default();
        let mut words: Vec<&String> = command.iter().collect();
        words.extend(subcommands.into_iter().filter(|word| !is_in_command(word)));
        let is_given = |flag: &String| command.iter().skip(1).chain(args.iter()).any(|word| word == flag);
        words.extend(flags.into_iter().filter(|flag| !is_given(flag)));
        words.extend(args.iter().chain(&session).chain(option));
        let mut arguments: Vec<SecretBytes> = words.into_iter().map(|word| SecretBytes::from(word.as_str())).collect();
        let Some(prompt) = prompt else { return (arguments, None) };
        match &form.prompt {
            Place::After(words) => {
                arguments.extend(words.iter().map(|word| SecretBytes::from(word.as_str())));
                arguments.push(
                    if interactive == Some(true) && self.looks_behind_dashes && self.is_subcommand(prompt.as_slice()) {
                        // Says the same, and is no subcommand's name.
                        SecretBytes::from([prompt.as_slice(), b"\n"].concat())
                    } else {
                        prompt.clone()
                    },
                );
            }
            Place::JoinedTo(option) => {
                arguments.push(SecretBytes::from([option.as_bytes(), b"=", prompt.as_slice()].concat()));
            }
            // An entry with such a prompt is refused.
            Place::Nowhere => return (arguments, None),
        }
        let at = arguments.len() - 1;
        (arguments, Some(at))
    }

    /// Variables to give to an agent, unless something else gives them.
    pub fn variables(&self, interactive: Option<bool>, has_prompt: bool) -> impl Iterator<Item = (&str, &str)> {
        let is_at_terminal = !has_prompt || interactive.unwrap_or(self.stays_by_default);
        let more = is_at_terminal.then_some(&self.variables_at_terminal);
        self.variables.iter().chain(more.into_iter().flatten()).map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// What the jcard's table changes in these variables: a new value, or `None` for one that the shipped table gives and this does not.
    pub fn changed_variables(&self, interactive: Option<bool>, has_prompt: bool) -> BTreeMap<String, Option<String>> {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), Some(value.to_owned()));
        let shipped = Self::find(&self.name);
        let shipped: BTreeMap<_, _> =
            shipped.iter().flat_map(|shipped| shipped.variables(interactive, has_prompt)).map(owned).collect();
        let mut changed: BTreeMap<_, _> = shipped.keys().map(|name| (name.clone(), None)).collect();
        changed.extend(self.variables(interactive, has_prompt).map(owned));
        changed.retain(|name, value| shipped.get(name) != Some(value));
        changed
    }

    fn form(&self, has_more_words: bool, interactive: Option<bool>, prompt: &[u8]) -> &Form {
        static AS_IT_IS: Form = Form { before_args: Vec::new(), prompt: Place::After(Vec::new()) };
        let Forms { prompt: unset, prompt_guarded, ends, ends_guarded, stays, stays_guarded } = &self.forms;
        let own = match interactive {
            None => None,
            Some(false) => ends.as_ref().zip(Some(ends_guarded)),
            Some(true) => stays.as_ref().zip(Some(stays_guarded)),
        };
        let (plain, guarded) = own.unwrap_or((unset.as_ref().unwrap_or(&AS_IT_IS), prompt_guarded));
        // An option that takes several values would take the prompt for one of them.
        let is_exposed = interactive == Some(true) && has_more_words && plain.is_bare();
        if is_exposed || self.may_mistake(prompt) { guarded.as_ref().unwrap_or(plain) } else { plain }
    }

    fn ends_in_option(&self, args: &[String]) -> bool {
        args.last().is_some_and(|last| self.prompt_options.contains(last))
    }

    fn may_mistake(&self, prompt: &[u8]) -> bool {
        prompt.starts_with(b"-") || prompt.starts_with(b"@") || self.is_subcommand(prompt)
    }

    fn is_subcommand(&self, prompt: &[u8]) -> bool {
        self.subcommands.iter().any(|subcommand| subcommand.as_bytes() == prompt)
    }

    /// What of a command comes after the harness's own binary: before it there may be `nice`, or a container's `run`.
    fn own_words<'a>(&self, command: &'a [String]) -> &'a [String] {
        let name = |path: &str| path.rsplit('/').next().map(str::to_owned);
        let is_binary = |word: &String| name(word) == name(&self.binary);
        command.iter().rposition(is_binary).map_or(&[], |at| &command[at + 1..])
    }
}

/// The words with something in the place of a name.
fn filled_in(words: &[String], name: &str, value: &str) -> Vec<String> {
    words.iter().map(|word| word.replace(name, value)).collect()
}

/// `args` with more words at a place in them.
fn with_words<'a>(words: &[String], at: usize, args: &'a [String]) -> Cow<'a, [String]> {
    if words.is_empty() {
        return Cow::Borrowed(args);
    }
    let (before, after) = args.split_at(at);
    Cow::Owned([before, words, after].concat())
}

/// Whether a word of a command line is one of these, or begins with one of them that ends in `=`.
fn says_of_sandbox(words: &[String], word: &str) -> bool {
    words.iter().any(|known| word == known || known.ends_with('=') && word.starts_with(known.as_str()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// The words of a command line of the preset's own binary.
    fn words(harness: &str, args: &[&str], interactive: Option<bool>, prompt: Option<&str>) -> Vec<String> {
        let harness = Harness::find(harness).unwrap();
        of_command(&harness.name, &[&harness.binary], args, interactive, prompt)
    }

    fn of_command(
        harness: &str,
        command: &[&str],
        args: &[&str],
        interactive: Option<bool>,
        prompt: Option<&str>,
    ) -> Vec<String> {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let prompt = prompt.map(SecretBytes::from);
        let choices = Choices { interactive, ..Choices::default() };
        let (arguments, at) =
            Harness::find(harness).unwrap().command_line(&owned(command), &owned(args), &choices, prompt.as_ref());
        assert_eq!(at, prompt.map(|_| arguments.len() - 1));
        arguments.iter().map(|word| String::from_utf8(word.as_slice().to_vec()).unwrap()).collect()
    }

    /// Prompts that a command line could take for something else.
    const TRICKY: &[&str] =
        &["-", "--", "-v", "--help", "- [ ] fix it", "---\ntitle: x\n---\nfix it", "@notes.md", "@"];

    #[rstest]
    #[case("claude-code", &["claude", "-x", "-p", "do it"])]
    #[case("opencode", &["opencode", "-x", "--prompt", "do it"])]
    #[case("gemini-cli", &["gemini", "-x", "do it"])]
    #[case("codex", &["codex", "exec", "--skip-git-repo-check", "-x", "--", "do it"])]
    #[case("custom", &["agent", "-x", "do it"])]
    fn the_command_line_is_as_ever_where_the_prompt_is_plain(#[case] harness: &str, #[case] expected: &[&str]) {
        assert_eq!(words(harness, &["-x"], None, Some("do it")), expected);
    }

    #[rstest]
    #[case("claude-code", None, &["claude", "-x", "-p", "--", "P"])]
    #[case("claude-code", Some(false), &["claude", "-x", "-p", "--", "P"])]
    #[case("claude-code", Some(true), &["claude", "-x", "--", "P"])]
    #[case("opencode", None, &["opencode", "run", "-x", "--", "P"])]
    #[case("opencode", Some(false), &["opencode", "run", "-x", "--", "P"])]
    #[case("opencode", Some(true), &["opencode", "-x", "--prompt=P"])]
    #[case("gemini-cli", None, &["gemini", "-x", "--prompt=P"])]
    #[case("gemini-cli", Some(false), &["gemini", "-x", "--prompt=P"])]
    #[case("gemini-cli", Some(true), &["gemini", "-x", "--prompt-interactive=P"])]
    #[case("codex", None, &["codex", "exec", "--skip-git-repo-check", "-x", "--", "P"])]
    #[case("codex", Some(false), &["codex", "exec", "--skip-git-repo-check", "-x", "--", "P"])]
    #[case("codex", Some(true), &["codex", "--no-daemon", "-x", "--", "P"])]
    #[case("custom", None, &["agent", "-x", "P"])]
    #[case("pi", None, &["pi", "-x", "-p", "--", "P"])]
    #[case("pi", Some(true), &["pi", "-x", "--", "P"])]
    #[case("qwen-code", None, &["qwen", "-x", "--prompt=P"])]
    #[case("qwen-code", Some(true), &["qwen", "-x", "--prompt-interactive=P"])]
    #[case("kimi", Some(false), &["kimi", "-x", "--prompt=P"])]
    #[case("aider", None, &["aider", "--no-check-update", "-x", "--message=P"])]
    fn a_prompt_like_an_option_is_no_option(
        #[case] harness: &str,
        #[case] interactive: Option<bool>,
        #[case] form: &[&str],
    ) {
        for prompt in TRICKY {
            let expected: Vec<String> = form.iter().map(|word| word.replace('P', prompt)).collect();
            assert_eq!(words(harness, &["-x"], interactive, Some(prompt)), expected, "{prompt}");
        }
    }

    #[rstest]
    #[case("claude-code", "mcp", None, &["claude", "-p", "--", "mcp"])]
    #[case("claude-code", "mcp", Some(true), &["claude", "--", "mcp\n"])]
    #[case("gemini-cli", "hooks", None, &["gemini", "--prompt=hooks"])]
    #[case("gemini-cli", "hooks", Some(true), &["gemini", "--prompt-interactive=hooks"])]
    #[case("codex", "review", None, &["codex", "exec", "--skip-git-repo-check", "--", "review"])]
    #[case("codex", "review", Some(true), &["codex", "--no-daemon", "--", "review"])]
    #[case("opencode", "serve", None, &["opencode", "--prompt", "serve"])]
    fn a_prompt_of_one_word_is_no_subcommand(
        #[case] harness: &str,
        #[case] prompt: &str,
        #[case] interactive: Option<bool>,
        #[case] expected: &[&str],
    ) {
        assert_eq!(words(harness, &[], interactive, Some(prompt)), expected);
    }

    #[rstest]
    #[case("claude-code", Some(true), &["claude", "do it"])]
    #[case("claude-code", Some(false), &["claude", "-p", "do it"])]
    #[case("codex", Some(true), &["codex", "--no-daemon", "do it"])]
    #[case("codex", Some(false), &["codex", "exec", "--skip-git-repo-check", "--", "do it"])]
    #[case("gemini-cli", Some(true), &["gemini", "-i", "do it"])]
    #[case("gemini-cli", Some(false), &["gemini", "--prompt=do it"])]
    #[case("opencode", Some(true), &["opencode", "--prompt", "do it"])]
    #[case("opencode", Some(false), &["opencode", "run", "--", "do it"])]
    #[case("custom", Some(true), &["agent", "do it"])]
    #[case("custom", Some(false), &["agent", "do it"])]
    #[case("pi", None, &["pi", "-p", "do it"])]
    #[case("pi", Some(true), &["pi", "do it"])]
    #[case("qwen-code", Some(true), &["qwen", "-i", "do it"])]
    #[case("kimi", None, &["kimi", "-p", "do it"])]
    fn interactive_decides_whether_it_stays(
        #[case] harness: &str,
        #[case] interactive: Option<bool>,
        #[case] expected: &[&str],
    ) {
        assert_eq!(words(harness, &[], interactive, Some("do it")), expected);
    }

    #[test]
    fn an_option_of_many_values_does_not_take_the_prompt() {
        let args = &["--allowedTools", "Bash"];
        let expected = ["claude", "--allowedTools", "Bash", "--", "do it"];
        assert_eq!(words("claude-code", args, Some(true), Some("do it")), expected);
    }

    #[rstest]
    #[case("claude-code", &["claude", "-x"])]
    #[case("opencode", &["opencode", "-x"])]
    #[case("gemini-cli", &["gemini", "-x"])]
    #[case("codex", &["codex", "--no-daemon", "-x"])]
    #[case("custom", &["agent", "-x"])]
    #[case("pi", &["pi", "-x"])]
    #[case("qwen-code", &["qwen", "-x"])]
    #[case("kimi", &["kimi", "-x"])]
    #[case("aider", &["aider", "--no-check-update", "-x"])]
    fn without_a_prompt_it_waits_at_its_terminal(#[case] harness: &str, #[case] expected: &[&str]) {
        for interactive in [None, Some(true)] {
            assert_eq!(words(harness, &["-x"], interactive, None), expected);
        }
    }

    #[rstest]
    #[case::in_command(&["/opt/codex", "exec", "--skip-git-repo-check"], &["-m", "o"], &["-m", "o"])]
    #[case::in_args(&["/opt/codex"], &["exec", "--skip-git-repo-check"], &["--skip-git-repo-check"])]
    #[case::flag_in_args(&["/opt/codex"], &["--json", "--skip-git-repo-check"], &["--json", "--skip-git-repo-check"])]
    fn words_that_are_there_already_are_not_repeated(
        #[case] command: &[&str],
        #[case] args: &[&str],
        #[case] args_left: &[&str],
    ) {
        let words = of_command("codex", command, args, None, Some("do it"));
        let expected = [&["/opt/codex", "exec"], command.get(2..).unwrap_or_default(), args_left, &["--", "do it"]];
        assert_eq!(words, expected.concat());
    }

    #[test]
    fn another_programs_subcommand_does_not_count() {
        let command = &["podman", "run", "--rm", "box", "opencode"];
        let words = of_command("opencode", command, &[], Some(false), Some("do it"));
        assert_eq!(words, [command, &["run", "--", "do it"][..]].concat());
    }

    #[test]
    fn an_option_for_the_prompt_in_args_is_not_repeated() {
        let of = |interactive, prompt| words("gemini-cli", &["--yolo", "-p"], interactive, Some(prompt));
        assert_eq!(of(None, "do it"), ["gemini", "--yolo", "-p", "do it"]);
        assert_eq!(of(None, "- do it"), ["gemini", "--yolo", "--prompt=- do it"]);
        assert_eq!(of(Some(false), "do it"), ["gemini", "--yolo", "--prompt=do it"]);
        let gemini = Harness::find("gemini-cli").unwrap();
        assert!(!gemini.stays_open(&["-p".to_owned()], None, b"do it"));
    }

    #[test]
    fn what_codex_takes_for_its_terminal_is_refused() {
        let codex = Harness::find("codex").unwrap();
        assert!(codex.refuses(b"-").is_some() && codex.refuses(b"- ").is_none());
    }

    #[test]
    fn only_those_that_stay_by_default_stay_open() {
        let stays = |interactive, prompt: &[u8]| -> Vec<&str> {
            let open = shipped().iter().filter(|harness| harness.stays_open(&[], interactive, prompt));
            open.map(|harness| &*harness.name).collect()
        };
        assert_eq!(stays(None, b"do it"), ["opencode", "gemini-cli"]);
        assert_eq!(stays(None, b"- do it"), [""; 0]);
        assert_eq!((stays(Some(true), b"do it"), stays(Some(false), b"do it")), (vec![], vec![]));
    }

    #[test]
    fn variables_are_those_of_its_purpose() {
        let given = |harness: &str, interactive, has_prompt| -> Vec<String> {
            let harness = Harness::find(harness).unwrap();
            harness.variables(interactive, has_prompt).map(|(name, _)| name.to_owned()).collect()
        };
        assert_eq!(given("claude-code", None, true), [""; 0]);
        assert_eq!(given("claude-code", Some(true), true), ["CLAUDE_CODE_SANDBOXED"]);
        assert_eq!(given("claude-code", None, false), ["CLAUDE_CODE_SANDBOXED"]);
        assert_eq!(given("gemini-cli", Some(false), true), ["GEMINI_CLI_TRUST_WORKSPACE"]);
        assert_eq!(given("custom", None, false), [""; 0]);
    }

    /// The words of a command line with these choices.
    fn chosen(harness: &str, args: &[&str], choices: &Choices<'_>) -> String {
        let harness = Harness::find(harness).unwrap();
        let args: Vec<String> = args.iter().map(|&word| word.to_owned()).collect();
        let prompt = SecretBytes::from("do it");
        let (words, at) = harness.command_line(std::slice::from_ref(&harness.binary), &args, choices, Some(&prompt));
        assert_eq!(at, Some(words.len() - 1));
        let words = words.iter().map(|word| String::from_utf8(word.as_slice().to_vec()).unwrap());
        words.collect::<Vec<_>>().join(" ")
    }

    #[rstest]
    #[case("claude-code", Approval::Edits, "claude --permission-mode acceptEdits -x -p do it")]
    #[case("codex", Approval::Readonly, "codex exec --skip-git-repo-check --sandbox read-only -x -- do it")]
    #[case("gemini-cli", Approval::Everything, "gemini --approval-mode=yolo -x do it")]
    #[case("opencode", Approval::Everything, "opencode --auto -x --prompt do it")]
    #[case("pi", Approval::Everything, "pi -x -p do it")]
    #[case("aider", Approval::Everything, "aider --no-check-update --yes-always -x --message=do it")]
    fn approval_stands_before_args(#[case] harness: &str, #[case] approval: Approval, #[case] expected: &str) {
        let choices = Choices { approval: Some(approval), ..Choices::default() };
        assert_eq!(chosen(harness, &["-x"], &choices), expected);
    }

    #[test]
    fn args_that_say_the_approval_have_the_last_word() {
        let choices = Choices { approval: Some(Approval::Everything), ..Choices::default() };
        let args = ["-s", "read-only"];
        assert_eq!(chosen("codex", &args, &choices), "codex exec --skip-git-repo-check -s read-only -- do it");
        let args = ["--approval-mode=plan"];
        assert_eq!(chosen("gemini-cli", &args, &choices), "gemini --approval-mode=plan do it");
        let args = ["resume", "--last"];
        // `codex exec resume` has no option for its sandbox, and `codex resume` has.
        let expected =
            "codex exec --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox resume --last -- do it";
        assert_eq!(chosen("codex", &args, &choices), expected);
        let stays = Choices { interactive: Some(true), ..choices };
        let expected = "codex --no-daemon resume --dangerously-bypass-approvals-and-sandbox --last -- do it";
        assert_eq!(chosen("codex", &args, &stays), expected);
    }

    #[test]
    fn options_that_permit_details_go_with_an_approval() {
        let choices = Choices { approval: Some(Approval::Edits), ..Choices::default() };
        let args = ["--allowedTools", "Bash(git *)"];
        let expected = "claude --permission-mode acceptEdits --allowedTools Bash(git *) -p do it";
        assert_eq!(chosen("claude-code", &args, &choices), expected);
        let claude = Harness::find("claude-code").unwrap();
        assert!(claude.asks(&[], &[]) && !claude.asks(&[], &args.map(str::to_owned)));
    }

    #[test]
    fn codex_sandboxes_nothing_itself_in_a_sandbox() {
        let choices = Choices { in_sandbox: true, ..Choices::default() };
        let expected = "codex exec --skip-git-repo-check --sandbox danger-full-access resume --last -- do it";
        assert_eq!(chosen("codex", &["resume", "--last"], &choices), expected);
        let everything = Choices { approval: Some(Approval::Everything), ..choices };
        let expected = "codex exec --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox -- do it";
        assert_eq!(chosen("codex", &[], &everything), expected);
    }

    #[rstest]
    #[case("claude-code", "claude --output-format stream-json --verbose --max-budget-usd 1.5 -x --resume S -p do it")]
    #[case("codex", "codex exec --skip-git-repo-check --json -x resume S -- do it")]
    #[case("gemini-cli", "gemini -o stream-json -x --resume S --prompt=do it")]
    #[case("opencode", "opencode run --format json -x -s S -- do it")]
    #[case("pi", "pi --mode json -x --session-id S -p do it")]
    #[case("qwen-code", "qwen -o stream-json -x --resume S --prompt=do it")]
    #[case("kimi", "kimi -x -S S -p do it")]
    fn results_end_and_name_the_conversation(#[case] harness: &str, #[case] expected: &str) {
        let session = Some(Session::Resume("S"));
        let choices = Choices { results: true, session, max_cost: Some("1.5"), ..Choices::default() };
        assert_eq!(chosen(harness, &["-x"], &choices), expected);
        let stays = Choices { interactive: Some(true), ..choices };
        assert_eq!(chosen(harness, &["-x"], &stays), expected);
    }

    #[test]
    fn a_conversation_stands_before_an_option_for_the_prompt() {
        let choices = Choices { session: Some(Session::New("S")), ..Choices::default() };
        assert_eq!(chosen("gemini-cli", &["--yolo", "-p"], &choices), "gemini --yolo --session-id S -p do it");
    }

    #[test]
    fn what_takes_no_prompt_at_its_terminal_is_known() {
        let refuse = shipped().iter().filter(|harness| !harness.takes_prompt(Some(true)));
        assert_eq!(refuse.map(|harness| &*harness.name).collect::<Vec<_>>(), ["kimi", "aider"]);
        assert!(shipped().iter().all(|harness| harness.takes_prompt(None) && harness.takes_prompt(Some(false))));
    }

    fn in_sandbox(harness: &str, command: &[&str], args: &[&str]) -> String {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let harness = Harness::find(harness).unwrap();
        let (command, args, choices) =
            (owned(command), owned(args), Choices { in_sandbox: true, ..Choices::default() });
        harness.chosen_args(&choices, &command, &args, harness.after_subcommand(&args)).join(" ")
    }

    #[rstest]
    #[case::plain(&["codex"], &["-m", "o"], "--sandbox danger-full-access -m o")]
    #[case::subcommand(&["codex"], &["resume", "--last"], "resume --sandbox danger-full-access --last")]
    #[case::said(&["codex"], &["-s", "workspace-write"], "-s workspace-write")]
    #[case::said_in_command(&["codex", "exec", "--sandbox=read-only"], &["-m", "o"], "-m o")]
    #[case::said_in_config(&["codex"], &["-c", "sandbox_mode=\"read-only\""], "-c sandbox_mode=\"read-only\"")]
    #[case::of_another_program(&["box", "--sandbox", "codex"], &[], "--sandbox danger-full-access")]
    fn codex_does_without_its_own_sandbox_in_one_of_agentd(
        #[case] command: &[&str],
        #[case] args: &[&str],
        #[case] expected: &str,
    ) {
        assert_eq!(in_sandbox("codex", command, args), expected);
        assert_eq!(in_sandbox("claude-code", command, args), args.join(" "));
    }

    #[rstest]
    #[case(&[], None)]
    #[case(&["-s", "danger-full-access"], None)]
    #[case(&["--sandbox=danger-full-access"], None)]
    #[case(&["--dangerously-bypass-approvals-and-sandbox"], None)]
    #[case(&["--yolo"], None)]
    #[case(&["-s", "workspace-write"], Some("-s"))]
    #[case(&["--sandbox", "read-only"], Some("--sandbox"))]
    #[case(&["--full-auto"], Some("--full-auto"))]
    #[case(&["-c", "sandbox_mode=\"read-only\""], Some("sandbox_mode=\"read-only\""))]
    fn a_sandbox_in_a_sandbox_is_noticed(#[case] args: &[&str], #[case] expected: Option<&str>) {
        let args: Vec<String> = args.iter().map(|&word| word.to_owned()).collect();
        let command = ["codex".to_owned()];
        assert_eq!(Harness::find("codex").unwrap().asks_for_own_sandbox(&command, &args), expected);
        assert_eq!(Harness::find("gemini-cli").unwrap().asks_for_own_sandbox(&command, &args), None);
    }

    #[test]
    fn only_paths_below_the_home_fill_a_sandboxs_home() {
        // What harnesses keep of their work, which grows without bound; no path of a seed is one of them, or above one.
        let kept = [
            ".claude/projects",
            ".claude/history.jsonl",
            ".claude/file-history",
            ".claude/plugins",
            ".codex/sessions",
            ".codex/history.jsonl",
            ".codex/log",
            ".gemini/tmp",
            ".gemini/history",
            ".gemini/extensions",
            ".local/share/opencode/opencode.db",
            ".local/share/opencode/storage",
            ".config/opencode/node_modules",
            ".ssh",
            ".gitconfig",
        ];
        for harness in shipped() {
            assert_eq!(harness.home_keep.is_empty(), harness.is_custom(), "{}", harness.name);
            assert!(harness.home_keep.is_sorted(), "{}", harness.name);
            for path in &harness.home_keep {
                assert!(path.starts_with('.') && !path.contains("..") && !path.ends_with('/'), "{path}");
                let shows = |kept: &&str| std::path::Path::new(kept).starts_with(path);
                assert_eq!(kept.iter().find(|kept| shows(kept)), None, "{path}");
            }
        }
    }
}
