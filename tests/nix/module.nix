# What the module defines. `evaluate` makes a list of modules, with the module among them, into a configuration.
{ evaluate, lib }:
let
  package = {
    type = "derivation";
    name = "agentd";
    outPath = "/opt/agentd";
    meta.mainProgram = "agentd";
  };

  with' = settings: { services.agentd = settings; };
  enabled = with' {
    enable = true;
    inherit package;
  };
  # With the real NixOS each evaluation takes a second and much memory, so the one without settings is made once.
  bare = evaluate [ enabled ];
  of = modules: if modules == [ ] then bare else evaluate ([ enabled ] ++ modules);

  daemon = modules: (of modules).systemd.services.agentd;
  tmux = modules: (of modules).systemd.services.agentd-tmux;
  socket = modules: (of modules).systemd.sockets.agentd;
  # Our own, each as mode, user and group.
  tmpfiles =
    modules:
    lib.mapAttrs (_: lib.mapAttrs (_: { d, ... }: "${d.mode} ${d.user} ${d.group}")) (
      select [ "00-agentd" "10-agentd" ] (of modules).systemd.tmpfiles.settings
    );
  etc = modules: (of modules).environment.etc;
  account = modules: (of modules).users.users.agent;
  # The jcard that these modules declare, as data.
  declared =
    modules:
    let
      inherit ((etc modules)."stereos/jcard.toml".source.passthru.jcard) value;
    in
    if lib.isAttrs value then value else builtins.fromJSON (builtins.unsafeDiscardStringContext value);

  # The daemon's arguments after those that are always there.
  start = ''"/opt/agentd/bin/agentd" '';
  always = ''"--api-socket" "/run/stereos/agentd.sock" "--tmux-socket" "/run/agentd/tmux.sock" "--user" "agent" "--admin-group" "admin" "--terminal-socket" "/run/agentd-daemon/terminal.sock" "--operator-group" "admin" "--override-dir" "/var/lib/agentd-overrides" "--await-tmux"'';
  command = settings: (daemon [ (with' settings) ]).serviceConfig.ExecStart;

  # What the configuration is refused with.
  advice =
    settings:
    map (assertion: assertion.message) (
      lib.filter (assertion: !assertion.assertion && lib.hasInfix "services.agentd" assertion.message)
        (of [ (with' settings) ]).assertions
    );
  isAdvised =
    settings: infixes:
    let
      messages = advice settings;
    in
    if lib.all (infix: lib.any (lib.hasInfix infix) messages) infixes then "advised" else messages;

  # A system that has always had the service and shapes it to its needs.
  consumer =
    { lib, ... }:
    {
      services.agentd.enable = true;
      systemd.tmpfiles.rules = [
        "d /run/agentd 0750 agent admin -"
        "d /run/stereos 0750 root admin -"
        "d /run/stereos/secrets 0700 root root -"
        "d /home/agent/workspace 0755 agent agent -"
      ];
      systemd.services.agentd = {
        after = [ "stereosd.service" ];
        requires = [ "stereosd.service" ];
        path = [ package ];
        serviceConfig = {
          DynamicUser = lib.mkForce false;
          Restart = lib.mkForce "on-failure";
          RestartSec = 5;
        };
      };
      users.groups = {
        admin = { };
        agent = { };
      };
      users.users = {
        admin = {
          isNormalUser = true;
          extraGroups = [
            "wheel"
            "admin"
          ];
        };
        agent = {
          isNormalUser = true;
          group = "agent";
          home = "/home/agent";
          shell = "/opt/shell/bin/shell";
          extraGroups = [ ];
        };
      };
    };

  select = names: lib.filterAttrs (name: _: lib.elem name names);
in
lib.mapAttrs' (name: lib.nameValuePair "test ${name}") {
  "nothing is defined unless it is enabled" = {
    expr = (evaluate [ ]).systemd.services ? agentd;
    expected = false;
  };

  "the daemon tells systemd how it is, and is told to read again by a signal" = {
    expr = select [
      "KillMode"
      "LogsDirectory"
      "LogsDirectoryMode"
      "NotifyAccess"
      "StateDirectory"
      "StateDirectoryMode"
      "Type"
      "WatchdogSec"
    ] (daemon [ ]).serviceConfig;
    expected = {
      KillMode = "mixed";
      LogsDirectory = "agentd";
      LogsDirectoryMode = "0750";
      NotifyAccess = "main";
      StateDirectory = "agentd";
      StateDirectoryMode = "0700";
      Type = "notify";
      WatchdogSec = 30;
    };
  };
  "the daemon reads again at a reload" = {
    expr = lib.hasSuffix "/bin/kill -HUP $MAINPID" (daemon [ ]).serviceConfig.ExecReload;
    expected = true;
  };
  "the daemon is told where everything is" = {
    expr = command { };
    expected = start + always;
  };
  "arguments survive what systemd would expand, split or unescape" = {
    expr = command {
      extraArgs = [
        "100%"
        "$HOME"
        "two words"
        ''quo"te''
        "back\\slash"
        ";"
        "-config=/x y"
      ];
    };
    expected =
      start + always + " " + ''"100%%" "$$HOME" "two words" "quo\"te" "back\\slash" ";" "-config=/x y"'';
  };
  "other places and names reach the daemon and its units" = {
    expr =
      let
        config = of [
          (with' {
            user = "worker";
            adminGroup = "ops";
            operatorGroup = "drivers";
            overrideDir = "/srv/overrides";
            apiSocket = "/run/api/a.sock";
            tmuxSocket = "/run/workers/t.sock";
            terminalSocket = "/run/door/t.sock";
          })
        ];
      in
      {
        inherit (config.systemd.services.agentd.serviceConfig) ExecStart;
        inherit (config.systemd.services.agentd-tmux.serviceConfig) User;
        inherit (config.systemd.sockets.agentd) listenStreams;
        inherit (config.systemd.sockets.agentd.socketConfig) SocketGroup;
        terminal = {
          inherit (config.systemd.sockets.agentd-terminal) listenStreams;
          inherit (config.systemd.sockets.agentd-terminal.socketConfig) SocketGroup SocketMode;
        };
        folder = config.systemd.tmpfiles.settings."00-agentd"."/run/workers".d.user;
        group = config.users.users.worker.group;
        overrides = config.systemd.tmpfiles.settings."10-agentd"."/srv/overrides".d;
        groups = lib.all (group: config.users.groups ? ${group}) [
          "worker"
          "ops"
          "drivers"
        ];
      };
    expected = {
      ExecStart =
        start
        + ''"--api-socket" "/run/api/a.sock" "--tmux-socket" "/run/workers/t.sock" "--user" "worker" "--admin-group" "ops" "--terminal-socket" "/run/door/t.sock" "--operator-group" "drivers" "--override-dir" "/srv/overrides" "--await-tmux"'';
      User = "worker";
      listenStreams = [ "/run/api/a.sock" ];
      SocketGroup = "ops";
      terminal = {
        listenStreams = [ "/run/door/t.sock" ];
        SocketGroup = "drivers";
        SocketMode = "0660";
      };
      folder = "worker";
      overrides = {
        mode = "2770";
        user = "root";
        group = "drivers";
      };
      group = "worker";
      groups = true;
    };
  };
  "the total of the logs is a flag of the daemon" = {
    expr = command { logTotal = "5GiB"; };
    expected = start + ''"--log-total" "5GiB" '' + always;
  };
  "debug is a level of the log" = {
    expr = command { logLevel = "debug"; };
    expected = start + ''"--debug" '' + always;
  };

  "a switch restarts the daemon in one step and leaves the tmux server alone" = {
    expr = {
      daemon = (daemon [ ]).stopIfChanged;
      tmux = (tmux [ ]).restartIfChanged;
    };
    expected = {
      daemon = false;
      tmux = false;
    };
  };
  "at its end the daemon has the bus, the API's socket and the agents' homes" = {
    expr = lib.filter (unit: !lib.elem unit (daemon [ ]).after) [
      "agentd.socket"
      "agentd-terminal.socket"
      "dbus.service"
      "local-fs.target"
      "remote-fs.target"
    ];
    expected = [ ];
  };
  "the tmux server is there as long as the daemon, and first" = {
    expr = {
      inherit (daemon [ ]) upholds;
      after = lib.elem "agentd-tmux.service" (daemon [ ]).after;
      requires = lib.elem "agentd-tmux.service" ((daemon [ ]).requires or [ ]);
    };
    expected = {
      upholds = [ "agentd-tmux.service" ];
      after = true;
      requires = false;
    };
  };
  "the tmux server is the agent user's own, and an agent's end is not its end" = {
    expr = select [
      "OOMPolicy"
      "Slice"
      "TasksMax"
      "TimeoutStopSec"
      "Type"
      "User"
    ] (tmux [ ]).serviceConfig;
    expected = {
      OOMPolicy = "continue";
      Slice = "agentd.slice";
      TasksMax = "infinity";
      TimeoutStopSec = 10;
      Type = "forking";
      User = "agent";
    };
  };
  "nothing of what the daemon does without hinders agents" = {
    expr =
      let
        settings = modules: lib.attrNames (daemon modules).serviceConfig;
        withoutHardening = settings [ (with' { hardening = false; }) ];
        hardening = lib.filter (name: !lib.elem name withoutHardening) (settings [ ]);
      in
      {
        isHardened = lib.elem "NoNewPrivileges" hardening;
        hindrances = lib.filter (name: (tmux [ ]).serviceConfig ? ${name}) hardening;
      };
    expected = {
      isHardened = true;
      hindrances = [ ];
    };
  };
  "the tmux server keeps running without sessions" = {
    expr =
      lib.hasSuffix
        ''/bin/tmux" "-f" "/dev/null" "-S" "/run/agentd/tmux.sock" "start-server" ";" "set-option" "-s" "exit-empty" "off"''
        (tmux [ ]).serviceConfig.ExecStart;
    expected = true;
  };
  "agents share the limits that are set" = {
    expr =
      (of [
        (with' {
          limits = {
            MemoryMax = "75%";
            IOReadBandwidthMax = [
              "/dev/sda 50M"
              "/dev/sdb 10M"
            ];
          };
        })
      ]).systemd.slices.agentd.sliceConfig;
    expected = {
      MemoryMax = "75%";
      IOReadBandwidthMax = [
        "/dev/sda 50M"
        "/dev/sdb 10M"
      ];
    };
  };

  "the socket is the administrators', and goes when the daemon is stopped" = {
    expr = {
      inherit (socket [ ]) listenStreams wantedBy;
      socketConfig = select [
        "FileDescriptorName"
        "RemoveOnStop"
        "SocketGroup"
        "SocketMode"
      ] (socket [ ]).socketConfig;
      inherit ((socket [ ]).unitConfig) StopPropagatedFrom;
    };
    expected = {
      listenStreams = [ "/run/stereos/agentd.sock" ];
      wantedBy = [ "sockets.target" ];
      socketConfig = {
        FileDescriptorName = "api";
        RemoveOnStop = true;
        SocketGroup = "admin";
        SocketMode = "0660";
      };
      StopPropagatedFrom = [ "agentd.service" ];
    };
  };

  "folders are made, the tmux server's by a rule that is read first" = {
    expr = tmpfiles [ ];
    expected = {
      "00-agentd"."/run/agentd" = "2750 agent admin";
      "10-agentd" = {
        "/var/lib/agentd-overrides" = "2770 root admin";
        "/run/stereos" = "0750 root admin";
        "/run/stereos/secrets" = "0700 root root";
        "/home/agent/workspace" = "0755 agent agent";
        "/run/agentd-daemon" = "0755 root root";
      };
    };
  };
  "who has no home has no workspace" = {
    expr =
      (tmpfiles [ { users.users.agent.isSystemUser = true; } ])."10-agentd" ? "/var/empty/workspace";
    expected = false;
  };
  "the agents' folder is a small file system, which covers nothing" = {
    expr = map (unit: {
      inherit (unit) where type;
      isSmall = lib.hasInfix "size=1m,nr_inodes=1k" unit.options;
      isFirst = lib.elem "systemd-tmpfiles-setup.service" unit.before;
      condition = unit.unitConfig.ConditionDirectoryNotEmpty;
      isStopped = unit.unitConfig.X-StopOnRemoval;
    }) (of [ ]).systemd.mounts;
    expected = [
      {
        where = "/run/agentd";
        type = "tmpfs";
        isSmall = true;
        isFirst = true;
        condition = "!/run/agentd";
        isStopped = false;
      }
    ];
  };
  "what is not in /run is on the file system that it is on" = {
    expr = (of [ (with' { tmuxSocket = "/var/lib/agents/run/tmux.sock"; }) ]).systemd.mounts;
    expected = [ ];
  };
  "the daemon writes where flags and sockets say" = {
    expr =
      let
        service = daemon [
          (with' {
            tmuxSocket = "/var/lib/agents/run/tmux.sock";
            extraArgs = [
              "--state-dir"
              "/srv/agentd/state"
              "-log-dir=/data/log"
            ];
          })
        ];
      in
      lib.filter (path: !lib.elem path service.serviceConfig.ReadWritePaths) [
        "-/run"
        "-/var/lib/agents"
        "-/srv/agentd/state"
        "-/srv/agentd"
        "-/data/log"
      ];
    expected = [ ];
  };
  "agents are hardened if that is wanted" = {
    expr =
      let
        names = [
          "NoNewPrivileges"
          "ProtectProc"
          "RestrictSUIDSGID"
        ];
      in
      {
        usual = select names (tmux [ ]).serviceConfig;
        hardened = select names (tmux [ (with' { agentHardening = true; }) ]).serviceConfig;
      };
    expected = {
      usual = { };
      hardened = {
        NoNewPrivileges = true;
        ProtectProc = "invisible";
        RestrictSUIDSGID = true;
      };
    };
  };
  "folders that others own are left to them" = {
    expr =
      lib.attrNames
        (tmpfiles [
          (with' {
            createUsers = false;
            apiSocket = "/run/api/a.sock";
            secretDir = "/run/keys";
          })
        ]).${"10-agentd"} or { };
    expected = [
      "/run/agentd-daemon"
      "/var/lib/agentd-overrides"
    ];
  };
  "the agent user is a normal one with a group of its own" = {
    expr = select [
      "group"
      "home"
      "isNormalUser"
    ] (account [ ]);
    expected = {
      group = "agent";
      home = "/home/agent";
      isNormalUser = true;
    };
  };
  "users are left to others who make them" = {
    expr =
      let
        inherit (of [ (with' { createUsers = false; }) ]) users;
      in
      users.users ? agent || users.groups ? agent || users.groups ? admin;
    expected = false;
  };
  "agents find their packages" = {
    expr =
      (account [
        (with' {
          createUsers = false;
          agentPackages = [ package ];
        })
        {
          users.users.agent = {
            isNormalUser = true;
            packages = [ ];
          };
        }
      ]).packages;
    expected = [ package ];
  };

  "settings are checked and become the jcard" = {
    expr =
      let
        settings.agents = [ { harness = "codex"; } ];
        build = (etc [ (with' { inherit settings; }) ])."stereos/jcard.toml".source.buildCommand;
      in
      {
        command = command { inherit settings; };
        isChecked = lib.hasInfix "/opt/agentd/bin/agentd check --strict stereos/jcard.toml ||" build;
      };
    expected = {
      command = start + always;
      isChecked = true;
    };
  };
  "settings are checked as the daemon will read them" = {
    expr =
      map
        (
          extraArgs:
          lib.hasInfix "/opt/agentd/bin/agentd check --strict --unsandboxed stereos/jcard.toml"
            (etc [
              (with' {
                settings.agent.harness = "codex";
                inherit extraArgs;
              })
            ])."stereos/jcard.toml".source.buildCommand
        )
        [
          [ "--unsandboxed" ]
          [ "-unsandboxed" ]
        ];
    expected = [
      true
      true
    ];
  };
  "what entries leave open is the same for the daemon and the check" = {
    expr = [
      (lib.hasInfix
        "/opt/agentd/bin/agentd check --strict --default-type sandboxed --sandbox crun stereos/jcard.toml"
        (etc [
          (with' {
            settings.agent.harness = "codex";
            sandbox = {
              defaultType = "sandboxed";
              engine = "crun";
            };
          })
        ])."stereos/jcard.toml".source.buildCommand
      )
      (lib.hasInfix "/opt/agentd/bin/agentd check --strict --runsc-path /opt/runsc stereos/jcard.toml"
        (etc [
          (with' {
            settings.agent.harness = "codex";
            extraArgs = [ "-runsc-path=/opt/runsc" ];
          })
        ])."stereos/jcard.toml".source.buildCommand
      )
    ];
    expected = [
      true
      true
    ];
  };
  "a relative prompt_file is looked for where the configuration puts it" = {
    expr =
      let
        installed = etc [
          (with' { settings.agent.prompt_file = "prompts/a.md"; })
          {
            environment.etc = {
              "stereos/prompts/a.md".source = "${builtins.storeDir}/00000000000000000000000000000000-a.md";
              "stereos/of-the-machine".source = "/var/lib/prompt";
              "elsewhere".source = "/x";
            };
          }
        ];
      in
      map (infix: lib.hasInfix infix installed."stereos/jcard.toml".source.buildCommand) [
        "mkdir -p stereos/prompts\nln -s ${builtins.storeDir}/00000000000000000000000000000000-a.md stereos/prompts/a.md\n"
        "touch stereos/of-the-machine\n"
        "elsewhere"
        "ln -s stereos/jcard.toml"
      ];
    expected = [
      true
      true
      false
      false
    ];
  };
  "a jcard that is part of the configuration is one like settings" = {
    expr = {
      command = command { configFile = ./module.nix; };
      isInstalled = (etc [ (with' { configFile = ./module.nix; }) ]) ? "stereos/jcard.toml";
    };
    expected = {
      command = start + always;
      isInstalled = true;
    };
  };
  "a jcard that is built is one like settings" = {
    expr =
      let
        configFile = package // {
          outPath = "${builtins.storeDir}/00000000000000000000000000000000-jcard.toml";
        };
        config = of [ (with' { inherit configFile; }) ];
      in
      {
        command = config.systemd.services.agentd.serviceConfig.ExecStart;
        isInstalled = config.environment.etc ? "stereos/jcard.toml";
      };
    expected = {
      command = start + always;
      isInstalled = true;
    };
  };
  "a jcard on the machine is read there" = {
    expr = {
      command = command { configFile = "/var/lib/agents/jcard.toml"; };
      isInstalled =
        (etc [ (with' { configFile = "/var/lib/agents/jcard.toml"; }) ]) ? "stereos/jcard.toml";
    };
    expected = {
      command = start + ''"--config" "/var/lib/agents/jcard.toml" '' + always;
      isInstalled = false;
    };
  };
  "without a declaration the jcard is whose it is" = {
    expr = (etc [ ]) ? "stereos/jcard.toml";
    expected = false;
  };

  "secrets are linked to, not copied" = {
    expr =
      let
        settings.secretFiles.TOKEN = "/run/agenix/token";
        inherit ((etc [ (with' settings) ])."agentd/secrets/TOKEN") source;
      in
      {
        command = command settings;
        source = "${source}";
        isCopied = builtins.hasContext "${source}";
      };
    expected = {
      command = start + ''"--secret-dir" "/etc/agentd/secrets" '' + always;
      source = "/run/agenix/token";
      isCopied = false;
    };
  };
  "a folder of secrets is named" = {
    expr = command { secretDir = "/run/keys/agentd"; };
    expected = start + ''"--secret-dir" "/run/keys/agentd" '' + always;
  };

  "agents declared by name follow those of the settings" = {
    expr = declared [
      (with' {
        settings.agents = [
          {
            name = "first";
            harness = "codex";
          }
        ];
        settings.other.key = 1;
      })
      (with' {
        agents.reviewer = {
          harness = "codex";
          args = [ "--model" ];
        };
      })
      # As another module of the machine changes it.
      (with' {
        agents.reviewer = {
          args = [ "x" ];
          restart = "always";
        };
        agents.writer.harness = "claude-code";
      })
      (with' { agents.writer.harness = lib.mkForce "opencode"; })
    ];
    expected = {
      agents = [
        {
          name = "first";
          harness = "codex";
        }
        {
          name = "reviewer";
          harness = "codex";
          args = [
            "--model"
            "x"
          ];
          restart = "always";
        }
        {
          name = "writer";
          harness = "opencode";
        }
      ];
      other.key = 1;
    };
  };
  "packages in a jcard are store paths, and of them what has programs" = {
    expr =
      let
        tool = package // {
          outPath = "/opt/tool";
        };
        inherit
          (declared [
            (with' {
              settings.agents = [ { extra_packages = [ tool ]; } ];
              agents.a.extra_packages = [
                "jq"
                (package // { bin = tool; })
              ];
            })
          ])
          agents
          ;
      in
      map (agent: agent.extra_packages) agents;
    expected = [
      [ "/opt/tool" ]
      [
        "jq"
        "/opt/tool"
      ]
    ];
  };
  "an agentd of an overlay is the default" = {
    expr = (evaluate [ { services.agentd.enable = true; } ]).services.agentd.package.name;
    expected = "agentd";
  };
  "further users have homes, groups and tmux servers of their own" = {
    expr =
      let
        config = of [
          (with' {
            users = [
              "agent-a"
              "agent"
            ];
            agentPackages = [ package ];
          })
        ];
        user = config.users.users.agent-a;
        server = config.systemd.services."agentd-tmux@";
      in
      {
        user = select [
          "extraGroups"
          "group"
          "isNormalUser"
        ] user;
        packages = lib.length user.packages;
        default = config.users.users.agent.extraGroups;
        groups = lib.all (group: config.users.groups ? ${group}) [
          "agent-a"
          "agentd-agents"
        ];
        folders = lib.mapAttrs (_: { d, ... }: "${d.mode} ${d.user} ${d.group}") (
          config.systemd.tmpfiles.settings."05-agentd-users"
        );
        workspace = config.systemd.tmpfiles.settings."10-agentd"."/home/agent-a/workspace".d.user;
        mounts = map (unit: unit.where) config.systemd.mounts;
        inherit (config.systemd.services.agentd) upholds;
        server = {
          inherit (server) restartIfChanged;
          inherit (server.serviceConfig) User Slice;
          start = lib.hasSuffix ''/bin/tmux" "-f" "/dev/null" "-S" "/run/agentd-daemon/users/%i/tmux.sock" "start-server" ";" "set-option" "-s" "exit-empty" "off"'' server.serviceConfig.ExecStart;
        };
      };
    expected = {
      user = {
        extraGroups = [ "agentd-agents" ];
        group = "agent-a";
        isNormalUser = true;
      };
      packages = 1;
      default = [ ];
      groups = true;
      folders = {
        "/run/agentd-daemon/users" = "0755 root root";
        "/run/agentd-daemon/users/agent-a" = "2750 agent-a admin";
      };
      workspace = "agent-a";
      mounts = [
        "/run/agentd"
        "/run/agentd-daemon/users/agent-a"
      ];
      upholds = [
        "agentd-tmux.service"
        "agentd-tmux@agent-a.service"
      ];
      server = {
        restartIfChanged = false;
        User = "%i";
        Slice = "agentd.slice";
        start = true;
      };
    };
  };
  "without further users there are no instances and no group" = {
    expr = {
      services = bare.systemd.services ? "agentd-tmux@";
      group = bare.users.groups ? agentd-agents;
      rules = bare.systemd.tmpfiles.settings ? "05-agentd-users";
    };
    expected = {
      services = false;
      group = false;
      rules = false;
    };
  };
  "a further user may be defined elsewhere" = {
    expr =
      let
        config = of [
          (with' {
            users = [ "agent-a" ];
            createUsers = false;
          })
          {
            users.users = {
              agent.isNormalUser = true;
              agent-a = {
                isNormalUser = true;
                group = "crew";
              };
            };
          }
        ];
      in
      {
        inherit (config.users.users.agent-a) group;
        inherit (config.systemd.services.agentd) upholds;
      };
    expected = {
      group = "crew";
      upholds = [
        "agentd-tmux.service"
        "agentd-tmux@agent-a.service"
      ];
    };
  };
  "users that must not be agents' are refused" = {
    expr =
      isAdvised
        {
          users = [
            "root"
            "Agent A"
          ];
        }
        [
          "services.agentd.users has root"
          "Agent A cannot be the name of a user"
        ];
    expected = "advised";
  };
  "further users in groups with rights are refused" = {
    expr =
      map
        (
          group:
          lib.any (assertion: !assertion.assertion && lib.hasInfix "agent-a is in" assertion.message)
            (of [
              (with' { users = [ "agent-a" ]; })
              { users.users.agent-a.extraGroups = [ group ]; }
            ]).assertions
        )
        [
          "admin"
          "wheel"
          "video"
        ];
    expected = [
      true
      true
      false
    ];
  };
  "the engine of sandboxes is on the PATH of the machine and of the daemon" = {
    expr =
      let
        names = list: map (one: one.name) list;
        other = of [ (with' { sandboxPackages = [ (package // { name = "crun"; }) ]; }) ];
        chosen = of [ (with' { sandbox.engine = "crun"; }) ];
      in
      {
        usual = lib.elem "bubblewrap" (names bare.environment.systemPackages);
        daemon = lib.elem "bubblewrap" (names bare.systemd.services.agentd.path);
        other = lib.filter (
          name:
          lib.elem name [
            "bubblewrap"
            "crun"
          ]
        ) (names other.environment.systemPackages);
        chosen = lib.elem "crun" (names chosen.environment.systemPackages);
      };
    expected = {
      usual = true;
      daemon = true;
      other = [ "crun" ];
      chosen = true;
    };
  };
  "two declarations of the jcard are refused" = {
    expr = isAdvised {
      settings.agents = [ ];
      configFile = "/x";
    } [ "keep one of them" ];
    expected = "advised";
  };
  "agents by name and a file are refused" = {
    expr = isAdvised {
      agents.a.harness = "codex";
      configFile = "/x";
    } [ "keep one of them" ];
    expected = "advised";
  };
  "two places of secrets are refused" = {
    expr = isAdvised {
      secretFiles.A = "/run/a";
      secretDir = "/run/keys";
    } [ "the folder /run/keys with systemd.tmpfiles" ];
    expected = "advised";
  };
  "secrets in the store are refused" = {
    expr =
      isAdvised
        {
          secretFiles = {
            A = "${builtins.storeDir}/00000000000000000000000000000000-a";
            B = "relative";
          };
        }
        [
          "services.agentd.secretFiles.A is ${builtins.storeDir}"
          "services.agentd.secretFiles.B is relative"
        ];
    expected = "advised";
  };
  "a folder of secrets in the store is refused" = {
    expr = isAdvised { secretDir = "${builtins.storeDir}/keys"; } [
      "services.agentd.secretDir is ${builtins.storeDir}/keys"
    ];
    expected = "advised";
  };
  "a secret's name is that of a variable" = {
    expr = isAdvised { secretFiles.my-key = "/run/a"; } [
      "my-key cannot be the name of a variable"
    ];
    expected = "advised";
  };
  "agents do not run as root" = {
    expr = isAdvised {
      user = "root";
      createUsers = false;
    } [ "choose an unprivileged user" ];
    expected = "advised";
  };
  "agents are no administrators, whoever says that they are" = {
    expr =
      map
        (
          module:
          lib.length (
            lib.filter (
              assertion: !assertion.assertion && lib.hasInfix "agents could use agentd's API" assertion.message
            ) (of [ module ]).assertions
          )
        )
        [
          (with' { adminGroup = "agent"; })
          { users.users.agent.extraGroups = [ "admin" ]; }
          { users.groups.admin.members = [ "agent" ]; }
          { users.groups.admin.members = [ "op" ]; }
        ];
    expected = [
      1
      1
      1
      0
    ];
  };
  # Only the paths are looked at, so one configuration serves for all.
  "the API's socket is out of the agents' reach" = {
    expr =
      lib.filter (apiSocket: isAdvised { inherit apiSocket; } [ "such as /run/stereos" ] != "advised")
        [
          "/run/agentd/agentd.sock"
          "/run/agentd/api/agentd.sock"
          "/run//agentd/../agentd/./api/agentd.sock"
          "/var/run/agentd/agentd.sock"
          "/home/agent/agentd.sock"
          "/tmp/agentd.sock"
        ];
    expected = [ ];
  };
  "what else is the daemon's own is out of the agents' reach" = {
    expr = {
      secrets = isAdvised { secretDir = "/run/agentd/secrets"; } [ "secretDir is /run/agentd/secrets" ];
      flags =
        isAdvised
          {
            extraArgs = [
              "--state-dir=/home/agent/state"
              "-log-dir"
              "/run/agentd/logs"
            ];
          }
          [
            "extraArgs is /home/agent/state"
            "extraArgs is /run/agentd/logs"
          ];
    };
    expected = {
      secrets = "advised";
      flags = "advised";
    };
  };
  "no shared folder is given to the agents" = {
    expr =
      lib.filter
        (
          tmuxSocket:
          isAdvised { inherit tmuxSocket; } [ "a folder of its own, such as /run/agentd" ] != "advised"
        )
        [
          "/tmp/tmux.sock"
          "/usr/local/tmux/tmux.sock"
          "${builtins.storeDir}/tmux/tmux.sock"
          "/run/agentd/../tmux.sock"
          "/run//tmux.sock"
          "/etc/tmux/tmux.sock"
          "/var/run/tmux.sock"
          "/run/stereos/tmux/tmux.sock"
        ];
    expected = [ ];
  };
  "no home is written into" = {
    expr = isAdvised { tmuxSocket = "/run/../home/agent/run/tmux.sock"; } [ "such as\n/run/agentd" ];
    expected = "advised";
  };
  "paths reach the units as they are meant" = {
    expr =
      let
        config = of [
          (with' {
            apiSocket = "/run//stereos/./agentd.sock";
            tmuxSocket = "/var/run/agentd/../agentd/tmux.sock";
          })
        ];
      in
      {
        inherit (config.systemd.services.agentd.serviceConfig) ExecStart;
        inherit (config.systemd.sockets.agentd) listenStreams;
        folders = lib.attrNames config.systemd.tmpfiles.settings."00-agentd";
        refused = lib.filter (assertion: !assertion.assertion) config.assertions;
      };
    expected = {
      ExecStart = start + always;
      listenStreams = [ "/run/stereos/agentd.sock" ];
      folders = [ "/run/agentd" ];
      refused = [ ];
    };
  };
  "a socket's path is short enough" = {
    expr = isAdvised {
      apiSocket = "/run/${lib.concatStringsSep "/" (lib.genList (_: "long") 30)}/agentd.sock";
    } [ "at most 107 bytes" ];
    expected = "advised";
  };
  "flags that options decide on are refused" = {
    expr =
      isAdvised
        {
          extraArgs = [
            "-api-socket"
            "/x"
            "--user=me"
            "-config"
            "/y"
          ];
          configFile = "/z";
        }
        [
          "-api-socket, which is decided by services.agentd.apiSocket"
          "--user=me, which is decided by services.agentd.user"
          "-config, which is decided by services.agentd.configFile"
        ];
    expected = "advised";
  };
  "flags of the time before the options are still taken" = {
    expr = advice {
      extraArgs = [
        "-config"
        "/y"
        "-secret-dir"
        "/z"
        "-debug"
      ];
    };
    expected = [ ];
  };
  "a sound configuration is not complained about" = {
    expr = advice { };
    expected = [ ];
  };

  "a system that had the service before keeps what it says" = {
    expr =
      let
        config = of [ consumer ];
        service = config.systemd.services.agentd;
        rules = [
          "d /run/agentd 0750 agent admin -"
          "d /run/stereos 0750 root admin -"
          "d /run/stereos/secrets 0700 root root -"
          "d /home/agent/workspace 0755 agent agent -"
        ];
      in
      {
        serviceConfig = select [
          "DynamicUser"
          "Restart"
          "RestartSec"
          "RuntimeDirectory"
          "Type"
        ] service.serviceConfig;
        inherit (service) requires;
        after = lib.all (unit: lib.elem unit service.after) [
          "stereosd.service"
          "agentd-tmux.service"
        ];
        path = lib.elem package service.path;
        rules = lib.all (rule: lib.elem rule config.systemd.tmpfiles.rules) rules;
        # A second rule for a path is a complaint in the log at each boot.
        second = lib.concatMap lib.attrNames (
          lib.attrValues (
            select [
              "00-agentd"
              "10-agentd"
            ] config.systemd.tmpfiles.settings
          )
        );
        user = select [
          "group"
          "home"
          "shell"
        ] config.users.users.agent;
        inherit (config.nixpkgs) overlays;
      };
    expected = {
      serviceConfig = {
        DynamicUser = false;
        Restart = "on-failure";
        RestartSec = 5;
        Type = "notify";
      };
      requires = [ "stereosd.service" ];
      after = true;
      path = true;
      rules = true;
      # That system had no rule for this one.
      second = [
        "/run/agentd-daemon"
        "/var/lib/agentd-overrides"
      ];
      user = {
        group = "agent";
        home = "/home/agent";
        shell = "/opt/shell/bin/shell";
      };
      overlays = [ ];
    };
  };
  "hardening can be overridden piece by piece, and as a whole" = {
    expr = {
      one =
        (daemon [ { systemd.services.agentd.serviceConfig.ProtectHome = false; } ])
        .serviceConfig.ProtectHome;
      all = (daemon [ (with' { hardening = false; }) ]).serviceConfig ? NoNewPrivileges;
    };
    expected = {
      one = false;
      all = false;
    };
  };
}
