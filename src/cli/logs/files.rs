//! Logs from their files, if no daemon runs: through the same readers, renderers and redaction as the daemon's.
//!
//! The launcher redacts secrets in the files as they are printed. Those that escape sequences or line breaks keep apart are found only
//! in the text, with the present secrets. So text is shown only to a user who can read all of them, and who therefore learns nothing.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Bytes;
use nix::unistd::Gid;

use super::printer::{Label, Mark, Printer, Separator};
use super::{Arguments, Failure, each_once};
use crate::agent::name::Name;
use crate::agent::secrets::Secrets;
use crate::cli::target::Target;
use crate::config;
use crate::deputy::Deputy;
use crate::deputy::renderer::Renderers;
use crate::deputy::transcript::{Broken, Gone, Outlet, Rendering, Transcript};
use crate::inputs::secrets;
use crate::logs::attempt::{AttemptId, Named};
use crate::logs::selection::{self, Opened, Wanted, Which};
use crate::logs::store::{Retention, Store};
use crate::settings::Surroundings;
use crate::sys::fd;
use crate::sys::regular_file;
use crate::text::glob;
use crate::text::redact::Redactor;
use crate::wire::status::Time;

/// Prints what is kept.
pub(super) async fn print(
    all: &crate::cli::Arguments,
    arguments: &Arguments,
    here: &Surroundings,
) -> Result<(), Failure> {
    fd::hand_down_none();
    let target = Target::find(all, &arguments.whereabouts(), here);
    if arguments.all || !arguments.labels.is_empty() || arguments.names.iter().any(|name| glob::is_pattern(name)) {
        let why = "agentd is not running, and without it the agents must be named one by one";
        return Err(Failure::Said(why.to_owned()));
    }
    let store = Store::new(&target.settings.log_dir, Gid::effective(), Retention::default());
    let names = each_once(&arguments.names);
    let labels = Label::all(&names, arguments.is_about_several());
    for (name, label) in names.iter().zip(labels) {
        let printer = Printer::new(arguments, label);
        let agent: Name =
            name.parse().map_err(|error| Failure::Said(format!("there is no log of {name:?}: {error}")))?;
        let rendering = if arguments.raw { None } else { Some(rendering(&target, arguments, &agent)?) };
        let reading = Reading { store: &store, agent, arguments, rendering };
        reading.print(printer).await?;
    }
    Ok(())
}

/// How text is made of an agent's logs, if this user may see text: by a process of the user whom the agent runs as.
fn rendering(target: &Target, arguments: &Arguments, agent: &Name) -> Result<Rendering, Failure> {
    let name = arguments.names.first().map_or("NAME", String::as_str);
    let refused = |why: String| {
        Failure::Said(format!(
            "agentd is not running, and without it the log cannot be shown as text: {why}; `agentd logs --raw {name}` prints it as \
             it is kept"
        ))
    };
    let jcard = regular_file::read(&target.settings.config, config::MAX_SIZE).ok();
    let config = jcard.and_then(|(text, _)| config::parse(&text, &target.settings.options).ok());
    let named = config.as_ref().map(secrets::Named::by).unwrap_or_default();
    let reading = secrets::read(&target.settings.secret_dir, &named, &Secrets::default());
    if !reading.secrets.is_complete {
        let shown = target.settings.secret_dir.display();
        let why = reading.error().unwrap_or_else(|| format!("{shown} does not exist"));
        let why = why.lines().next().unwrap_or_default();
        return Err(refused(format!("its secrets could not be redacted ({why})")));
    }
    let user = target.declared_user(&agent.key());
    let (account, _) = target.side_of(user.as_deref()).map_err(refused)?;
    let redactor = Redactor::new(reading.secrets.to_redact().cloned());
    let renderers = Renderers::new(Deputy::new(&account, || {}));
    Ok(Rendering { renderers, redactor: Arc::new(redactor), stamps: arguments.timestamps })
}

/// One agent's log.
struct Reading<'a> {
    store: &'a Store,
    agent: Name,
    arguments: &'a Arguments,
    rendering: Option<Rendering>,
}

impl Reading<'_> {
    async fn print(&self, mut printer: Printer<'_>) -> Result<(), Failure> {
        let Arguments { lines, since, raw, .. } = *self.arguments;
        let which = match self.arguments.attempt {
            Some(named) => Which::Named(named),
            None if self.arguments.previous => Which::Previous,
            None if self.arguments.all_attempts => Which::All,
            None => Which::Latest,
        };
        let wanted = Wanted { lines, since, as_text: !raw };
        let opened = self.open(which, wanted).await?;
        for &earlier in &opened.earlier {
            let Ok(opened) = self.open(Which::Named(Named::Log(earlier)), wanted).await else { continue };
            self.print_one(&opened, &mut printer).await?;
            printer.separate(&Separator::of(&mark(earlier, &opened), None));
        }
        self.print_one(&opened, &mut printer).await
    }

    async fn open(&self, which: Which, wanted: Wanted) -> Result<Opened, Failure> {
        let name = &self.agent;
        let opened = selection::open(self.store, name, which, wanted).await;
        opened.map_err(|error| {
            Failure::Said(format!("agentd is not running, and the log of {name} is not there: {error}"))
        })
    }

    async fn print_one(&self, opened: &Opened, printer: &mut Printer<'_>) -> Result<(), Failure> {
        printer.begin(opened.log.kept().attempt);
        let out = Out { printer: Mutex::new(printer), failed: Mutex::default() };
        let told = async {
            let mut transcript = Transcript::begin(opened, self.rendering.clone()).await?;
            transcript.rest(&out).await?;
            if transcript.end(&out).await? {
                out.send(Bytes::from_static(b"\n")).await?;
            }
            Ok(())
        };
        let told: Result<(), Broken> = told.await;
        let Out { printer, failed } = out;
        match (told, failed.into_inner().unwrap_or_else(PoisonError::into_inner)) {
            (Err(Broken::Gone), Some(error)) => return Err(Failure::Print(error)),
            (Err(Broken::Gone), None) => return Err(Failure::Print(io::ErrorKind::BrokenPipe.into())),
            (Err(Broken::Failed(why)), _) => return Err(Failure::Said(why)),
            (Ok(()), _) => {}
        }
        printer.into_inner().unwrap_or_else(PoisonError::into_inner).end().map_err(Failure::Print)
    }
}

/// Prints what a transcript sends.
struct Out<'a, 'b> {
    printer: Mutex<&'a mut Printer<'b>>,
    /// Why nothing more can be printed.
    failed: Mutex<Option<io::Error>>,
}

impl Outlet for Out<'_, '_> {
    async fn send(&self, piece: Bytes) -> Result<(), Gone> {
        let printed = self.printer.lock().unwrap_or_else(PoisonError::into_inner).print(&piece);
        printed.map_err(|error| {
            *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            Gone
        })
    }
}

fn mark(kept: AttemptId, opened: &Opened) -> Mark {
    Mark { log: kept.to_string(), attempt: kept.attempt, changed_at: opened.log.changed().ok().map(Time) }
}
