# Agents declared in Nix get their packages and their secrets, and new ones when these are rotated.
{ pkgs, ... }:
let
  agent = pkgs.writeShellScript "agent" ''
    printf '%s' "$TOKEN" >~/token
    command -v hello >~/hello
    exec sleep infinity
  '';
in
{
  name = "agentd-settings-and-secrets";

  nodes.machine = {
    services.agentd = {
      enable = true;
      settings.agents = [
        {
          name = "worker";
          harness = "custom";
          command = "${agent}";
          secrets = [ "TOKEN" ];
        }
      ];
      secretFiles.TOKEN = "/run/provisioned/token";
      agentPackages = [ pkgs.hello ];
    };
  };

  testScript = ''
    machine.wait_for_unit("agentd.service")
    ask = "curl --silent --unix-socket /run/stereos/agentd.sock http://agentd/v1/agents/worker"
    machine.wait_until_succeeds(f"{ask} | grep waiting")

    machine.succeed("install -d -m 700 /run/provisioned")
    machine.succeed("umask 077; printf first >/run/provisioned/token")
    machine.wait_until_succeeds("grep --line-regexp first /home/agent/token")
    machine.wait_until_succeeds("test -s /home/agent/hello")
    machine.fail("ps axww -o args | grep --word-regexp '[f]irst'")

    machine.succeed("umask 077; printf second >/run/provisioned/token.new")
    machine.succeed("mv /run/provisioned/token.new /run/provisioned/token")
    machine.wait_until_succeeds("grep --line-regexp second /home/agent/token")
  '';
}
