# Tasks that an operator gives as files are done as the agent user and once, and a schedule makes runs of its own.
{ pkgs, ... }:
let
  fixer = pkgs.writeShellScript "fixer" ''
    echo "did $(cat) as $(id --user --name)"
    echo started >>~/runs
  '';
in
{
  name = "agentd-runs";

  nodes.machine = {
    time.timeZone = "Europe/Berlin";
    services.agentd = {
      enable = true;
      operatorGroup = "operators";
      runsAtOnce = 2;
      agents = {
        fixer = {
          type = "native";
          harness = "custom";
          command = "${fixer}";
          runs.task = "stdin";
        };
        often = {
          type = "native";
          harness = "custom";
          command = "${pkgs.coreutils}/bin/true";
          runs.schedule = "every 2s";
        };
      };
    };
    users.users.operator = {
      isNormalUser = true;
      extraGroups = [ "operators" ];
    };
  };

  testScript = ''
    machine.wait_for_unit("agentd.service")
    spool = "/var/spool/agentd"
    machine.wait_until_succeeds(f"test $(stat --format %U:%G:%a {spool}/fixer) = root:operators:2770")
    machine.succeed(f"test $(stat --format %U:%G:%a {spool}) = root:operators:750")

    # A file, written aside and renamed, by an operator; and nobody else's.
    by_operator = "runuser --user operator -- sh -c"
    machine.succeed(f"{by_operator} 'umask 002; echo a >{spool}/fixer/one.tmp && mv {spool}/fixer/one.tmp {spool}/fixer/one'")
    machine.wait_until_succeeds("grep completed /var/log/agentd/fixer/runs/one/result.json")
    machine.succeed("grep --line-regexp 'did a as agent' /var/log/agentd/fixer/runs/one/stdout")
    machine.wait_until_fails(f"test -e {spool}/fixer/one")
    machine.fail(f"runuser --user agent -- sh -c 'echo b >{spool}/fixer/two'")

    # The id is the key: no second run is made of it, also by the next daemon.
    machine.succeed("systemctl restart agentd.service")
    machine.succeed(f"{by_operator} 'umask 002; echo a >{spool}/fixer/one'")
    machine.wait_until_succeeds(f"test -e {spool}/fixer/.refused/one.why")
    assert machine.succeed("wc --lines </home/agent/runs").strip() == "1"

    # Every scheduled time is a run, in the zone of the machine.
    machine.wait_until_succeeds("test $(ls /var/log/agentd/often/runs | wc --lines) -ge 2")
    machine.succeed("agentd check /etc/stereos/jcard.toml")
  '';
}
