//! Links the launcher so that little of its memory is private, because every agent has one.
//!
//! A static program has no private pages for the dynamic linker and for the data of libraries. A program at a fixed address has no
//! pages that are relocated at its start (about 30 KiB). The kernel still places its stack, heap and mappings at random. The launcher
//! runs as the agent user and has no unsafe code, so an attacker who reaches it gains no rights.
//!
//! Only the launcher is static. `agentd` looks users up, and the C library loads other libraries for that (`nsswitch.conf(5)`).
//!
//! rustc asks the linker for shared libraries by name. This script therefore puts a folder in front of the system's, where each such
//! name is a linker script (`ld(1)`, "Implicit Linker Scripts") that names the archive instead. If the system has no static C
//! library, the launcher is linked dynamically and has about 50 KiB more private memory.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

const BINARY: &str = "agentd-launcher";

/// The libraries that rustc links, and the linker script that replaces each.
const LIBRARIES: [(&str, &str); 7] = [
    ("gcc_s", "INPUT(libgcc_eh.a)"),
    ("c", "GROUP(libc.a libgcc.a libgcc_eh.a)"),
    ("m", "INPUT(libm.a)"),
    ("dl", "INPUT(libdl.a)"),
    ("rt", "INPUT(librt.a)"),
    ("util", "INPUT(libutil.a)"),
    ("pthread", "INPUT(libpthread.a)"),
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=AGENTD_LAUNCHER_LINK");
    println!("cargo::rerun-if-env-changed=CC");
    let Some(scripts) = env::var_os("OUT_DIR").map(|folder| PathBuf::from(folder).join("static")) else { return };
    // Distributors can choose the kind of linking.
    let is_static = match env::var("AGENTD_LAUNCHER_LINK").as_deref() {
        Ok("static") => write(&scripts).is_ok(),
        Ok("dynamic") => false,
        _ => is_usual_target() && write(&scripts).is_ok() && links(&scripts),
    };
    if is_static {
        println!("cargo::rustc-link-arg-bin={BINARY}=-no-pie");
        println!("cargo::rustc-link-arg-bin={BINARY}=-static");
        println!("cargo::rustc-link-arg-bin={BINARY}=-L{}", scripts.display());
    }
}

/// Whether the program is for the system that it is built on, and that system uses the GNU C library. Nothing is known of the linker
/// and libraries of any other target.
fn is_usual_target() -> bool {
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|it| it == value);
    is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") && env::var("HOST") == env::var("TARGET")
}

fn write(scripts: &Path) -> std::io::Result<()> {
    fs::create_dir_all(scripts)?;
    LIBRARIES
        .iter()
        .try_for_each(|(name, script)| fs::write(scripts.join(format!("lib{name}.so")), format!("{script}\n")))
}

/// Whether a program that uses these scripts can be linked and run here.
fn links(scripts: &Path) -> bool {
    let (source, program) = (scripts.join("probe.c"), scripts.join("probe"));
    if fs::write(&source, "#include <stdio.h>\nint main(void) { return puts(\"linked\") < 0; }\n").is_err() {
        return false;
    }
    let mut compiler = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()));
    compiler.args(["-no-pie", "-static", "-nodefaultlibs"]).arg(&source).arg("-o").arg(&program);
    compiler.arg(format!("-L{}", scripts.display()));
    // These arguments are the same as rustc's.
    compiler.arg("-Wl,--as-needed,-Bdynamic").args(LIBRARIES.iter().map(|(name, _)| format!("-l{name}")));
    let succeeds = |command: &mut Command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|it| it.success())
    };
    succeeds(&mut compiler) && succeeds(&mut Command::new(&program))
}
