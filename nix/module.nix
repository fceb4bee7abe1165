{
  config,
  lib,
  pkgs,
  utils,
  ...
}:
let
  inherit (lib)
    literalExpression
    literalMD
    mkDefault
    mkEnableOption
    mkIf
    mkMerge
    mkOption
    mkPackageOption
    types
    ;

  cfg = config.services.agentd;
  toml = pkgs.formats.toml { };

  # A derivation is a path as well.
  isInStore =
    path: builtins.hasContext (toString path) || isWithin builtins.storeDir (normalize (toString path));

  # The normalized path. /var/run is a link to /run everywhere.
  normalize =
    path:
    let
      parts = lib.filter (part: part != "" && part != ".") (lib.splitString "/" path);
      walk = found: part: if part == ".." then dropLast found else found ++ [ part ];
      dropLast = list: lib.take (lib.length list - 1) list;
      normal = "/" + lib.concatStringsSep "/" (lib.foldl' walk [ ] parts);
    in
    if isWithin "/var/run" normal then "/run${lib.removePrefix "/var/run" normal}" else normal;

  # Whether a normal path is that folder or is in it.
  isWithin = folder: path: path == folder || folder == "/" || lib.hasPrefix "${folder}/" path;
  isWithinAny = folders: path: lib.any (folder: isWithin folder path) folders;

  apiSocket = normalize (toString cfg.apiSocket);
  tmuxSocket = normalize (toString cfg.tmuxSocket);
  overrideDir = normalize (toString cfg.overrideDir);
  apiFolder = dirOf apiSocket;
  tmuxFolder = dirOf tmuxSocket;
  terminalSocket = normalize (toString cfg.terminalSocket);
  terminalFolder = dirOf terminalSocket;

  # A configFile that is part of the configuration, not a file on the machine.
  isConfigFileInStore =
    cfg.configFile != null && (builtins.isPath cfg.configFile || isInStore cfg.configFile);

  # A value of the jcard, with each package in it as its store path: then nothing of it is built on the machine.
  resolved =
    value:
    if lib.isDerivation value then
      "${lib.getBin value}"
    else if lib.isAttrs value then
      lib.mapAttrs (_: resolved) value
    else if lib.isList value then
      map resolved value
    else
      value;

  isDeclared = cfg.settings != { } || cfg.agents != { };

  # Those of `settings`, and then those that are declared by name.
  declared = resolved (
    cfg.settings
    // lib.optionalAttrs (cfg.agents != { }) {
      agents =
        cfg.settings.agents or [ ]
        ++ lib.mapAttrsToList (name: entry: { inherit name; } // entry) cfg.agents;
    }
  );

  # The jcard that the configuration holds, if it holds one.
  jcard =
    if isDeclared then
      toml.generate "jcard.toml" declared
    else if isConfigFileInStore then
      cfg.configFile
    else
      null;

  # The other files that the configuration puts beside the jcard, where agentd looks for a relative prompt_file.
  besideJcard = lib.filterAttrs (
    name: _: lib.hasPrefix "stereos/" name && name != "stereos/jcard.toml"
  ) config.environment.etc;

  checkedJcard = pkgs.runCommandLocal "jcard.toml" { passthru = { inherit jcard; }; } (
    lib.optionalString (pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform) (
      ''
        mkdir stereos
        cp ${jcard} stereos/jcard.toml
      ''
      + lib.concatStrings (
        lib.mapAttrsToList (
          name:
          { source, ... }:
          # A file that is not in the store exists only on the machine.
          ''
            mkdir -p ${dirOf name}
            ${if isInStore source then "ln -s ${source}" else "touch"} ${name}
          ''
        ) besideJcard
      )
      + ''
        ${cfg.package}/bin/agentd check --strict ${
          lib.concatStrings (map (word: "${word} ") sandboxArguments)
        }stereos/jcard.toml || {
          echo 'services.agentd: a warning is an error here. agentd looks for a relative prompt_file in /etc/stereos: put it there by' >&2
          echo 'environment.etc."stereos/NAME".source = ./NAME, or write an absolute path.' >&2
          exit 1
        }
      ''
    )
    + ''
      cp ${jcard} $out
    ''
  );

  # Below /etc, so that files that are no longer declared disappear, and a change needs no restart.
  secretLinks = "agentd/secrets";

  secretDir = if cfg.secretFiles != { } then "/etc/${secretLinks}" else cfg.secretDir;

  # What an entry leaves open, for the daemon and for the check of the jcard.
  sandboxFlags =
    lib.optionals (cfg.sandbox.defaultType != null) [
      "--default-type"
      cfg.sandbox.defaultType
    ]
    ++ lib.optionals (cfg.sandbox.engine != null) [
      "--sandbox"
      cfg.sandbox.engine
    ];

  sandboxArguments =
    lib.optional (hasFlag "unsandboxed") "--unsandboxed"
    ++ sandboxFlags
    ++
      lib.concatMap
        (
          name:
          lib.concatMap (flag: [
            "--${name}"
            (lib.escapeShellArg flag.value)
          ]) (flagsNamed name)
        )
        [
          "default-type"
          "sandbox"
          "runsc-path"
        ];

  arguments =
    sandboxFlags
    ++ lib.optionals (cfg.configFile != null && jcard == null) [
      "--config"
      (toString cfg.configFile)
    ]
    ++ lib.optionals (secretDir != null) [
      "--secret-dir"
      secretDir
    ]
    ++ lib.optional (cfg.logLevel == "debug") "--debug"
    ++ lib.optionals (cfg.logTotal != null) [
      "--log-total"
      cfg.logTotal
    ]
    ++ lib.optionals (cfg.agentGroup != "agentd-agents") [
      "--agent-group"
      cfg.agentGroup
    ]
    ++ [
      "--api-socket"
      apiSocket
      "--tmux-socket"
      tmuxSocket
      "--user"
      cfg.user
      "--admin-group"
      cfg.adminGroup
      "--terminal-socket"
      terminalSocket
      "--operator-group"
      cfg.operatorGroup
      "--override-dir"
      overrideDir
      # It has a unit of its own.
      "--await-tmux"
    ];

  # The flags that options set, and the options that set them. extraArgs never takes flags that the units depend on.
  decided = {
    api-socket = "apiSocket";
    tmux-socket = "tmuxSocket";
    user = "user";
    admin-group = "adminGroup";
    terminal-socket = "terminalSocket";
    operator-group = "operatorGroup";
    agent-group = "agentGroup";
    override-dir = "overrideDir";
  }
  // lib.optionalAttrs (cfg.settings != { }) { config = "settings"; }
  // lib.optionalAttrs (cfg.settings == { } && cfg.agents != { }) { config = "agents"; }
  // lib.optionalAttrs (cfg.configFile != null) { config = "configFile"; }
  // lib.optionalAttrs (cfg.secretDir != null) { secret-dir = "secretDir"; }
  // lib.optionalAttrs (cfg.secretFiles != { }) { secret-dir = "secretFiles"; }
  // lib.optionalAttrs (cfg.sandbox.defaultType != null) { default-type = "sandbox.defaultType"; }
  // lib.optionalAttrs (cfg.sandbox.engine != null) { sandbox = "sandbox.engine"; }
  // lib.optionalAttrs (cfg.logLevel == "debug") { debug = "logLevel"; }
  // lib.optionalAttrs (cfg.logTotal != null) { log-total = "logTotal"; };

  # The flags among the words, with one dash or two, as the daemon reads them: a name and a value, which may be the next word.
  flags = lib.concatLists (
    lib.zipListsWith (
      word: next:
      let
        match = builtins.match "--?([a-z][a-z-]*)(=(.*))?" word;
      in
      lib.optional (match != null) {
        inherit word;
        name = lib.head match;
        value = if lib.elemAt match 1 == null then next else lib.elemAt match 2;
      }
    ) cfg.extraArgs (lib.drop 1 cfg.extraArgs ++ [ "" ])
  );
  flagsNamed = name: lib.filter (flag: flag.name == name) flags;
  hasFlag = name: flagsNamed name != [ ];

  # Folders of the daemon's own that flags name.
  ownFolders = map (flag: normalize flag.value) (
    lib.filter (flag: lib.hasPrefix "/" flag.value) (flagsNamed "state-dir" ++ flagsNamed "log-dir")
  );

  accountOf = user: config.users.users.${user} or null;
  account = accountOf cfg.user;

  # Every user that agents can run as.
  agentUsers = lib.unique ([ cfg.user ] ++ cfg.users);

  # Whose members entries may name as their user.
  agentGroup = cfg.agentGroup or "agentd-agents";

  # Those beside the default one, each with a tmux server of its own in a folder of its own.
  furtherUsers = lib.filter (user: user != cfg.user) (lib.unique cfg.users);
  usersFolder = "${terminalFolder}/users";

  # Whether a user has a home. Users without one have one of these folders.
  hasHomeOf =
    user:
    accountOf user != null
    && !lib.elem (accountOf user).home [
      "/"
      "/dev/null"
      "/nonexistent"
      "/var/empty"
    ];
  hasHome = hasHomeOf cfg.user;

  # Folders that agents can write into or replace.
  agentFolders = [
    tmuxFolder
    usersFolder
  ]
  ++ map (user: normalize (accountOf user).home) (lib.filter hasHomeOf agentUsers);

  # Whether a user is a member of a group.
  isIn =
    group: user:
    lib.elem user (config.users.groups.${group}.members or [ ])
    || (
      accountOf user != null
      && lib.elem group ([ (accountOf user).group ] ++ (accountOf user).extraGroups)
    );

  # How a tmux server is run, as a unit of its own, because agents live in it: neither a restart of the daemon nor a switch may touch
  # it.
  tmuxServer =
    { user, start }:
    {
      documentation = [ "man:tmux(1)" ];
      after = [
        "local-fs.target"
        "nss-user-lookup.target"
        "remote-fs.target"
      ];
      restartIfChanged = false;
      startLimitIntervalSec = 0;
      serviceConfig = {
        # The command ends once the server listens.
        Type = "forking";
        User = user;
        ExecStart = start;
        # Agents cannot get out of their limits by asking tmux for another window.
        Slice = "agentd.slice";
        # An agent that takes too much memory takes no other agent with it.
        OOMPolicy = "continue";
        TasksMax = "infinity";
        TimeoutStopSec = 10;
      }
      // lib.optionalAttrs cfg.agentHardening (lib.mapAttrs (_: mkDefault) agentHardening);
    };

  # The command that starts a server on this socket.
  startServer =
    socket:
    utils.escapeSystemdExecArgs [
      "${cfg.tmuxPackage}/bin/tmux"
      "-f"
      "/dev/null"
      "-S"
      socket
      "start-server"
      ";"
      "set-option"
      "-s"
      "exit-empty"
      "off"
    ];

  # A file system of its own for the folder of an agent user's sockets, so that what agents put there takes no room from others in /run,
  # such as secrets and units. A folder with something in it is left as it is: a tmux server on it goes on. Ownership and mode are the
  # business of tmpfiles.
  mountFor = folder: server: {
    description = "Folder of the AI coding agents' tmux socket";
    what = "tmpfs";
    where = folder;
    type = "tmpfs";
    options = "size=1m,nr_inodes=1k,mode=0750,nosuid,nodev,noexec";
    wantedBy = [
      "local-fs.target"
      "systemd-tmpfiles-resetup.service"
    ];
    before = [
      server
      "agentd.service"
      "systemd-tmpfiles-resetup.service"
      "systemd-tmpfiles-setup.service"
    ];
    unitConfig = {
      ConditionDirectoryNotEmpty = "!${folder}";
      # A server may still listen there.
      X-StopOnRemoval = false;
    };
  };

  # Paths that other modules declare rules for. Their rules win, and a second rule would only log a line at each boot.
  ruled = lib.concatMap (
    rule:
    let
      match = builtins.match "[[:space:]]*[dDvqQ][^[:space:]]*[[:space:]]+\"?([^[:space:]\"]+).*" rule;
    in
    lib.optional (match != null) (normalize (lib.head match))
  ) config.systemd.tmpfiles.rules;
  unlessRuled = lib.filterAttrs (path: _: !lib.elem (normalize path) ruled);

  # Restrictions of the daemon. The agents live in scopes and in agentd-tmux.service, where none of this applies.
  hardening = {
    CapabilityBoundingSet = [
      # Secrets and links may belong to any user, and the folder of the tmux socket belongs to the agent user.
      "CAP_CHOWN"
      "CAP_DAC_OVERRIDE"
      # Helpers that use the agent user's paths run as the agent user.
      "CAP_SETGID"
      "CAP_SETUID"
      # For stopping agents. If an agent has no control group, the daemon finds what it leaves behind by its environment.
      "CAP_KILL"
      "CAP_SYS_PTRACE"
    ];
    DevicePolicy = "closed";
    IPAddressDeny = "any";
    LockPersonality = true;
    MemoryDenyWriteExecute = true;
    NoNewPrivileges = true;
    PrivateDevices = true;
    PrivateMounts = true;
    # Sockets that are files are in no network.
    PrivateNetwork = true;
    ProtectClock = true;
    ProtectHome = "read-only";
    ProtectHostname = true;
    ProtectKernelLogs = true;
    ProtectKernelModules = true;
    ProtectKernelTunables = true;
    # Root sees the processes that it may trace, which are all. The helpers of the agent user see only their own.
    ProtectProc = "invisible";
    ProtectSystem = "strict";
    # The folders of the sockets may be gone and made again, so it is what they are in. Temporary files are for the login shell. What
    # need not be there has a dash.
    ReadWritePaths = map (path: "-${path}") (
      lib.unique (
        [
          "/run"
          "/tmp"
          "/var/tmp"
        ]
        ++ lib.filter (folder: !isWithin "/run" folder) (
          map dirOf [
            tmuxFolder
            apiFolder
          ]
          ++ ownFolders
          ++ map dirOf ownFolders
        )
      )
    );
    RestrictAddressFamilies = [ "AF_UNIX" ];
    RestrictNamespaces = true;
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    SystemCallArchitectures = "native";
    SystemCallErrorNumber = "EPERM";
    SystemCallFilter = [
      "@system-service"
      "~@aio @keyring @memlock"
    ];
  };

  # Restrictions of what agents seldom need, and of what exploits of setuid programs use.
  agentHardening = {
    NoNewPrivileges = true;
    ProtectProc = "invisible";
    RestrictSUIDSGID = true;
  };
in
{
  options.services.agentd = {
    enable = mkEnableOption "agentd, which keeps declared AI coding agents running in tmux sessions";

    package = mkOption {
      type = types.package;
      default = pkgs.agentd or (pkgs.callPackage ./package.nix { });
      defaultText = literalMD "`pkgs.agentd` if an overlay adds it, else agentd, built with this system's packages";
      example = literalExpression "inputs.agentd.packages.\${pkgs.stdenv.hostPlatform.system}.agentd";
      description = "The agentd to run.";
    };

    tmuxPackage = mkPackageOption pkgs "tmux" {
      extraDescription = ''
        It is the agents' tmux. A server that runs keeps its version until `systemctl stop agentd` or a reboot.
      '';
    };

    settings = mkOption {
      inherit (toml) type;
      default = { };
      example = literalExpression ''
        {
          agents = [
            {
              name = "reviewer";
              harness = "claude-code";
              prompt = "Review the open pull requests.";
              restart = "on-failure";
            }
          ];
        }
      '';
      description = ''
        The jcard, as Nix. It is checked when the system is built, and becomes {file}`/etc/stereos/jcard.toml`; a change takes
        effect at the switch, for the agents concerned and without a restart of the daemon.

        It is readable for everybody who can read the Nix store: put secrets into
        {option}`services.agentd.secretFiles`, not into `env`.
      '';
    };

    agents = mkOption {
      type = types.attrsOf toml.type;
      default = { };
      example = literalExpression ''
        {
          reviewer = {
            harness = "claude-code";
            prompt = "Review the open pull requests.";
            extra_packages = [ pkgs.ripgrep ];
          };
        }
      '';
      description = ''
        Agents by name: each is an entry of the jcard, after those of {option}`services.agentd.settings`. Other modules can add fields
        to an agent, and override them with `lib.mkForce`. A package in `extra_packages` is built with the system.
      '';
    };

    users = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "agent-reviewer" ];
      description = ''
        More users that agents can run as, beside {option}`services.agentd.user`: an entry of the jcard names one as its `user`. Each
        has a home, a tmux server of its own (`agentd-tmux@USER.service`), and the packages of
        {option}`services.agentd.agentPackages`, and cannot read what belongs to the others.
      '';
    };

    sandboxPackages = mkOption {
      type = types.listOf types.package;
      default = [
        pkgs.bubblewrap
      ]
      ++ lib.optional (cfg.sandbox.engine == "crun") pkgs.crun
      ++ lib.optional (cfg.sandbox.engine == "runsc") pkgs.gvisor;
      defaultText = literalExpression "[ pkgs.bubblewrap ]";
      example = literalExpression "[ pkgs.bubblewrap pkgs.crun pkgs.gvisor ]";
      description = ''
        The engines that make sandboxes for agents with `type = "sandboxed"`: `bwrap` (bubblewrap), `crun` and `runsc` (gVisor). They
        are on the PATH of the machine, where the agents' launchers look for them. The one that
        {option}`services.agentd.sandbox.engine` names is among them by default.
      '';
    };

    configFile = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = "/var/lib/agents/jcard.toml";
      description = ''
        The jcard, as a file. One on the machine is named as a string, and is read while agentd runs; one that is part of the
        configuration (`./jcard.toml`) is treated like {option}`services.agentd.settings`. With neither, agentd reads
        {file}`/etc/stereos/jcard.toml`, whoever puts it there.
      '';
    };

    secretDir = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "/run/keys/agentd";
      description = ''
        The folder of secrets, one file for each variable. By default it is {file}`/run/stereos/secrets`, which is made; or the
        credentials of the service, if it has any (`systemd.services.agentd.serviceConfig.LoadCredential`).
      '';
    };

    secretFiles = mkOption {
      type = types.attrsOf types.str;
      default = { };
      example = literalExpression ''
        {
          ANTHROPIC_API_KEY = config.age.secrets.anthropic.path;
          GITHUB_TOKEN = config.sops.secrets.github.path;
        }
      '';
      description = ''
        Secrets by the name of their variable: where each is found while the system runs. agentd reads them as root, and notices
        when they are rotated.
      '';
    };

    user = mkOption {
      type = types.str;
      default = "agent";
      description = "The user that the agents run as.";
    };

    logTotal = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "5GiB";
      description = ''
        How much disk space the logs of all agents together may take. The oldest attempts go first, never the latest of an agent. If
        null, it is a tenth of the file system, at most 20 GiB.
      '';
    };

    adminGroup = mkOption {
      type = types.str;
      default = "admin";
      description = "The group that may use the API and see the tmux server's socket.";
    };

    operatorGroup = mkOption {
      type = types.str;
      default = cfg.adminGroup;
      defaultText = literalExpression "config.services.agentd.adminGroup";
      example = "operators";
      description = ''
        The group that may act on agents without root: stop, start, restart and pause them, attach to them and send them text. Its members
        have the agent user's rights. After a change on a running system: `systemctl restart agentd-terminal.socket agentd.service`.
      '';
    };

    agentGroup = mkOption {
      type = types.str;
      default = "agentd-agents";
      description = ''
        The group whose members entries of the jcard may name as `user`. Nobody in {option}`services.agentd.adminGroup` or
        {option}`services.agentd.operatorGroup` can be such a user.
      '';
    };

    overrideDir = mkOption {
      type = types.path;
      default = "/var/lib/agentd-overrides";
      description = ''
        Where the members of {option}`services.agentd.operatorGroup` say, a file each, which agents they have stopped or restarted. Only
        root may be able to change what is on the way to it.
      '';
    };

    createUsers = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = ''
        Whether to define {option}`services.agentd.user`, its group and workspace,
        {option}`services.agentd.adminGroup` and {option}`services.agentd.operatorGroup`. What is defined elsewhere in the configuration takes precedence. Who makes it a
        system user (`isSystemUser = true`) also has to set `isNormalUser = false`; it has a workspace if it has a `home`.
      '';
    };

    agentPackages = mkOption {
      type = types.listOf types.package;
      default = [ ];
      example = literalExpression "[ pkgs.claude-code pkgs.git pkgs.nodejs ]";
      description = ''
        Packages on the agents' PATH. They are in the agent user's profile, which a login shell of that user that sets a PATH of
        its own may leave out.
      '';
    };

    apiSocket = mkOption {
      type = types.path;
      default = "/run/stereos/agentd.sock";
      description = ''
        Where the API is served, to root and {option}`services.agentd.adminGroup`. After a change of it on a running system:
        `systemctl restart agentd.socket agentd.service`.
      '';
    };

    tmuxSocket = mkOption {
      type = types.path;
      default = "/run/agentd/tmux.sock";
      description = ''
        Where the agents' tmux server listens. The folder becomes the agent user's, and must be for nothing else. A change takes
        effect when no agent is left on the old server.
      '';
    };

    terminalSocket = mkOption {
      type = types.path;
      default = "/run/agentd-daemon/terminal.sock";
      description = ''
        Where {option}`services.agentd.operatorGroup` attaches to agents and sends them text. Only root may be able to write in the
        folder. After a change of it on a running system: `systemctl restart agentd-terminal.socket agentd.service`.
      '';
    };

    logLevel = mkOption {
      type = types.enum [
        "info"
        "debug"
      ];
      default = "info";
      description = ''
        How much is logged. `debug` has full command lines with prompts, the names of variables, and the last screen of an agent
        that ends.
      '';
    };

    sandbox = {
      defaultType = mkOption {
        type = types.nullOr (
          types.enum [
            "native"
            "sandboxed"
          ]
        );
        default = null;
        example = "sandboxed";
        description = ''
          What an entry of the jcard is that has neither `type` nor `sandbox`. If null, it is `native`: it runs without a sandbox.
        '';
      };
      engine = mkOption {
        type = types.nullOr (
          types.enum [
            "bwrap"
            "runsc"
            "crun"
          ]
        );
        default = null;
        example = "crun";
        description = "What makes the sandboxes of entries that have no `sandbox`. If null, it is `bwrap`.";
      };
    };

    limits = mkOption {
      type =
        let
          one = types.oneOf [
            types.bool
            types.int
            types.str
          ];
        in
        types.attrsOf (types.either one (types.listOf one));
      default = { };
      example = {
        MemoryMax = "75%";
        CPUWeight = 50;
        IOReadBandwidthMax = [ "/dev/sda 50M" ];
      };
      description = ''
        What all agents together may use, in the words of {manpage}`systemd.resource-control(5)`. An agent's own limits are in the
        jcard.
      '';
    };

    agentHardening = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Whether agents run without what they seldom need: no program gives them more rights (`sudo`, `fusermount`, `newuidmap`), they
        make no file with a setuid or setgid bit, and see no process of other users. It is
        {option}`systemd.services.agentd-tmux.serviceConfig`, and takes effect with the next tmux server: after
        `systemctl stop agentd`, or a reboot.
      '';
    };

    hardening = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = ''
        Whether the daemon runs without rights that it does not need. Agents are not affected: they run outside of the daemon's unit.
        Single settings can be overridden in `systemd.services.agentd.serviceConfig`.
      '';
    };

    extraArgs = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [
        "--settle"
        "1s"
      ];
      description = "More arguments for the daemon, passed exactly as they are. See {manpage}`agentd(1)`.";
    };
  };

  config = mkIf cfg.enable (mkMerge [
    {
      assertions = [
        {
          assertion = !isDeclared || cfg.configFile == null;
          message = ''
            services.agentd.settings or services.agentd.agents declares the jcard, and so does services.agentd.configFile; keep one of them.
          '';
        }
        {
          assertion = cfg.secretFiles == { } || cfg.secretDir == null;
          message = ''
            services.agentd.secretFiles and services.agentd.secretDir both say where secrets are; keep secretFiles, or put links into
            the folder ${toString cfg.secretDir} with systemd.tmpfiles.
          '';
        }
        {
          assertion = cfg.user != "root";
          message = "services.agentd.user is root; agents must not run as root: choose an unprivileged user.";
        }
        {
          assertion = !lib.elem "root" cfg.users;
          message = "services.agentd.users has root; agents must not run as root: remove it.";
        }
        {
          assertion =
            !lib.elem tmuxFolder [
              "/"
              "/media"
              "/mnt"
              "/opt"
              "/run"
              "/run/lock"
              "/srv"
              "/var"
              "/var/cache"
              "/var/lib"
              "/var/log"
              "/var/spool"
            ]
            && !isWithinAny [
              builtins.storeDir
              "/bin"
              "/boot"
              "/dev"
              "/etc"
              "/lib"
              "/lib64"
              "/nix"
              "/proc"
              "/run/booted-system"
              "/run/credentials"
              "/run/current-system"
              "/run/agentd-daemon"
              "/run/stereos"
              "/run/systemd"
              "/run/udev"
              "/run/wrappers"
              "/sbin"
              "/sys"
              "/tmp"
              "/usr"
              "/var/lib/agentd"
              "/var/log/agentd"
              "/var/tmp"
            ] tmuxFolder
            # The daemon has no files of its own in it.
            && !isWithinAny ownFolders tmuxFolder;
          message = ''
            services.agentd.tmuxSocket is in ${tmuxFolder}, but its folder is given to the agent user and must be for
            nothing else; use a folder of its own, such as /run/agentd.
          '';
        }
        {
          assertion =
            !isWithinAny [
              "/home"
              "/root"
              "/run/user"
            ] tmuxSocket
            && !(hasHome && isWithin (normalize account.home) tmuxSocket);
          message = ''
            services.agentd.tmuxSocket is ${tmuxSocket}, but agentd may not write into homes; use a folder of its own, such as
            /run/agentd.
          '';
        }
      ]
      ++
        map
          (
            { name, path }:
            {
              assertion =
                !isWithinAny (
                  agentFolders
                  ++ [
                    "/dev/shm"
                    "/tmp"
                    "/var/tmp"
                  ]
                ) path;
              message = ''
                services.agentd.${name} is ${path}, in a folder where agents can put something of their own in its place; use another one,
                such as /run/stereos.
              '';
            }
          )
          (
            [
              {
                name = "apiSocket";
                path = apiSocket;
              }
              {
                name = "terminalSocket";
                path = terminalSocket;
              }
            ]
            ++ lib.optional (cfg.secretDir != null) {
              name = "secretDir";
              path = normalize cfg.secretDir;
            }
            ++ map (path: {
              name = "extraArgs";
              inherit path;
            }) ownFolders
          )
      ++ lib.concatMap (user: [
        {
          assertion = !isIn cfg.adminGroup user;
          message = ''
            The user ${user} is in the group ${cfg.adminGroup}, so agents could use agentd's API; take it out of that group, or
            name another group in services.agentd.adminGroup.
          '';
        }
        {
          assertion = !isIn cfg.operatorGroup user;
          message = ''
            The user ${user} is in the group ${cfg.operatorGroup}, so agents could write overrides, which do not count; take it out
            of that group, or name another group in services.agentd.operatorGroup.
          '';
        }
      ]) agentUsers
      ++ map (user: {
        assertion = builtins.match "[a-z_][a-z0-9_-]*" user != null;
        message = "services.agentd.users: ${user} cannot be the name of a user; use lower-case letters, digits, _ and -.";
      }) cfg.users
      ++ map (user: {
        assertion = !isIn "wheel" user;
        message = ''
          The user ${user} is in services.agentd.users and in the group wheel, so agents could become root; take it out of one of them.
        '';
      }) furtherUsers
      ++ lib.mapAttrsToList (name: path: {
        # 107 bytes fit into the address of a Unix socket.
        assertion = builtins.stringLength path <= 107;
        message = "services.agentd.${name}: ${path} is too long for a socket's path; use one of at most 107 bytes.";
      }) { inherit apiSocket terminalSocket tmuxSocket; }
      ++ map (name: {
        assertion = builtins.match "[A-Za-z_][A-Za-z0-9_]*" name != null;
        message = "services.agentd.secretFiles: ${name} cannot be the name of a variable; use letters, digits and underscores.";
      }) (lib.attrNames cfg.secretFiles)
      ++
        lib.mapAttrsToList
          (option: path: {
            assertion = path == null || (lib.hasPrefix "/" path && !isInStore path);
            message = ''
              services.agentd.${option} is ${toString path}, but must be an absolute path outside of the Nix store, which everybody can
              read; write the path that the secret has while the system runs as a string, such as "/run/agenix/key".
            '';
          })
          (
            {
              inherit (cfg) secretDir;
            }
            // lib.mapAttrs' (name: lib.nameValuePair "secretFiles.${name}") cfg.secretFiles
          )
      ++ map (
        { name, word, ... }:
        {
          assertion = false;
          message = ''
            services.agentd.extraArgs has ${word}, which is decided by services.agentd.${decided.${name}}; set that option instead.
          '';
        }
      ) (lib.filter (flag: decided ? ${flag.name}) flags);

      # For `agentd status`, and for looking over an agent's shoulder.
      environment.systemPackages = [
        cfg.package
        cfg.tmuxPackage
      ]
      # For the launchers, whose PATH is that of the agent user's login.
      ++ cfg.sandboxPackages;

      environment.etc = mkMerge [
        (mkIf (jcard != null) { "stereos/jcard.toml".source = checkedJcard; })
        (lib.mapAttrs' (
          name: path: lib.nameValuePair "${secretLinks}/${name}" { source = path; }
        ) cfg.secretFiles)
      ];

      systemd.services.agentd = {
        description = "Supervisor of AI coding agents";
        documentation = [ "man:agentd(8)" ];
        wantedBy = [ "multi-user.target" ];
        wants = [
          "agentd.socket"
          "agentd-terminal.socket"
        ];
        # As long as there is a daemon there is a server. systemd starts it again when it dies.
        upholds = [ "agentd-tmux.service" ] ++ map (user: "agentd-tmux@${user}.service") furtherUsers;
        # systemd stops units in the opposite order: when the machine goes down, agents have all of this while the daemon stops them.
        after = [
          "agentd.socket"
          "agentd-terminal.socket"
          "agentd-tmux.service"
          # Over the bus, systemd tells the daemon whether it is being stopped or restarted.
          "dbus.service"
          "local-fs.target"
          "network.target"
          "nss-user-lookup.target"
          "remote-fs.target"
        ]
        ++ map (user: "agentd-tmux@${user}.service") furtherUsers;
        path = [ cfg.tmuxPackage ] ++ cfg.sandboxPackages;

        # In one step, so that the daemon knows that it is being restarted, and leaves the agents alone.
        stopIfChanged = false;
        # Agents depend on the daemon: systemd never gives up on it.
        startLimitIntervalSec = mkDefault 0;

        serviceConfig = {
          Type = "notify";
          NotifyAccess = "main";
          ExecStart = utils.escapeSystemdExecArgs (
            [ "${cfg.package}/bin/agentd" ] ++ arguments ++ cfg.extraArgs
          );
          ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
          # The daemon stops the agents, which are not in this unit. Only the daemon's helpers are left to kill here.
          KillMode = "mixed";
          OOMPolicy = "continue";
          Restart = mkDefault "on-failure";
          RestartSec = mkDefault 1;
          StateDirectory = "agentd";
          StateDirectoryMode = "0700";
          # What agents print, for root and the administrators.
          LogsDirectory = "agentd";
          LogsDirectoryMode = "0750";
          # From here on the daemon asks for as much time as its agents' grace periods need.
          TimeoutStopSec = mkDefault 90;
          UMask = "0077";
          WatchdogSec = mkDefault 30;
          # The daemon raises its own limit to this, whatever the manager's default is.
          LimitNOFILE = mkDefault "1024:524288";
          # More threads and helpers than a thousand agents need.
          TasksMax = mkDefault 8192;
        }
        // lib.optionalAttrs cfg.hardening (lib.mapAttrs (_: mkDefault) hardening);
      };

      systemd.services.agentd-tmux = {
        description = "tmux server of the AI coding agents";
      }
      // tmuxServer {
        inherit (cfg) user;
        start = startServer tmuxSocket;
      };

      # An instance for each further user.
      systemd.services."agentd-tmux@" = mkIf (furtherUsers != [ ]) (
        {
          description = "tmux server of the AI coding agents of user %i";
          # Also where an instance is not among the users above, because the daemon asks for it.
          before = [ "agentd.service" ];
        }
        // tmuxServer {
          user = "%i";
          # The instance is the user, which systemd fills in.
          start = lib.replaceStrings [ "%%i" ] [ "%i" ] (startServer "${usersFolder}/%i/tmux.sock");
        }
      );

      systemd.mounts =
        lib.optional (isWithin "/run" tmuxFolder) (mountFor tmuxFolder "agentd-tmux.service")
        ++ lib.optionals (isWithin "/run" usersFolder) (
          map (user: mountFor "${usersFolder}/${user}" "agentd-tmux@${user}.service") furtherUsers
        );

      systemd.sockets.agentd = {
        description = "API of the supervisor of AI coding agents";
        documentation = [ "man:agentd(8)" ];
        wantedBy = [ "sockets.target" ];
        listenStreams = [ apiSocket ];
        # After a stop of the daemon, the next request must not start it again.
        unitConfig.StopPropagatedFrom = [ "agentd.service" ];
        socketConfig = {
          FileDescriptorName = "api";
          RemoveOnStop = true;
          SocketGroup = cfg.adminGroup;
          SocketMode = "0660";
        };
      };

      systemd.sockets.agentd-terminal = {
        description = "Terminals of AI coding agents";
        documentation = [ "man:agentd(8)" ];
        wantedBy = [ "sockets.target" ];
        listenStreams = [ terminalSocket ];
        # After a stop of the daemon, the next request must not start it again.
        unitConfig.StopPropagatedFrom = [ "agentd.service" ];
        socketConfig = {
          Service = "agentd.service";
          FileDescriptorName = "terminal";
          DirectoryMode = "0755";
          RemoveOnStop = true;
          SocketGroup = cfg.operatorGroup;
          SocketMode = "0660";
        };
      };

      systemd.slices.agentd = {
        description = "AI coding agents";
        sliceConfig = cfg.limits;
      };

      systemd.tmpfiles.settings = {
        "00-agentd" = unlessRuled {
          # The server's socket gets the folder's group.
          ${tmuxFolder}.d = {
            mode = "2750";
            inherit (cfg) user;
            group = cfg.adminGroup;
          };
        };
        "05-agentd-users" = mkIf (furtherUsers != [ ]) (
          unlessRuled (
            {
              ${usersFolder}.d = {
                mode = "0755";
                user = "root";
                group = "root";
              };
            }
            // lib.listToAttrs (
              map (
                user:
                lib.nameValuePair "${usersFolder}/${user}" {
                  d = {
                    mode = "2750";
                    inherit user;
                    group = cfg.adminGroup;
                  };
                }
              ) furtherUsers
            )
          )
        );
        "10-agentd" = unlessRuled (
          {
            # The daemon's unit may not make it.
            ${overrideDir}.d = {
              mode = "2770";
              user = "root";
              group = cfg.operatorGroup;
            };
          }
          // lib.optionalAttrs (apiFolder == "/run/stereos" || secretDir == null) {
            "/run/stereos".d = {
              mode = "0750";
              user = "root";
              group = cfg.adminGroup;
            };
          }
          // lib.optionalAttrs (terminalFolder == "/run/agentd-daemon") {
            # What no agent may replace.
            "/run/agentd-daemon".d = {
              mode = "0755";
              user = "root";
              group = "root";
            };
          }
          // lib.optionalAttrs (secretDir == null) {
            "/run/stereos/secrets".d = {
              mode = "0700";
              user = "root";
              group = "root";
            };
          }
        );
      };
    }

    (mkIf cfg.createUsers {
      users.groups = lib.genAttrs (lib.unique (
        agentUsers
        ++ [
          cfg.adminGroup
          cfg.operatorGroup
        ]
        ++ lib.optional (furtherUsers != [ ]) agentGroup
      )) (_: { });
      users.users = mkMerge (
        map (user: {
          ${user} = {
            isNormalUser = mkDefault true;
            description = mkDefault "AI coding agents";
            # Before mkDefault, with which normal users get the group `users`.
            group = lib.mkOverride 999 user;
            extraGroups = mkIf (lib.elem user furtherUsers) [ agentGroup ];
          };
        }) agentUsers
      );
      systemd.tmpfiles.settings."10-agentd" = unlessRuled (
        lib.listToAttrs (
          map (
            user:
            lib.nameValuePair "${(accountOf user).home}/workspace" {
              d = {
                mode = "0755";
                inherit user;
                inherit (accountOf user) group;
              };
            }
          ) (lib.filter hasHomeOf agentUsers)
        )
      );
    })

    (mkIf (cfg.agentPackages != [ ]) {
      users.users = lib.genAttrs agentUsers (_: {
        packages = cfg.agentPackages;
      });
    })
  ]);
}
