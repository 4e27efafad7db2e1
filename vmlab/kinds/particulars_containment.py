"""What is particular about Solaris Zones, BSD Jails and AIX WPARs (textbook 18.5.8), each with where it is documented.

Beside what the real products are like stands what of it runs here, in the guest `containers`: which of its system calls a
command comes down to, which field of `vmlab.vmm.container_table.Container` a limit is.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CONTAINMENT", "Command", "ContainmentParticulars", "Limit"]


@dataclass(frozen=True, slots=True)
class Command:
    """What an administrator types.

    Attributes
    ----------
    name : str
        The command, with its section of the manual where it has one.
    does : str
        What it is for.
    here : str
        What does that here; empty where nothing does.
    """

    name: str
    does: str
    here: str = ""


@dataclass(frozen=True, slots=True)
class Limit:
    """Something of which a container may have so much and no more.

    Attributes
    ----------
    name : str
        What it is called.
    of : str
        Of what it is a limit.
    here : str
        The field of a `Container` that is one of the same; empty where none is.
    """

    name: str
    of: str
    here: str = ""


@dataclass(frozen=True, slots=True)
class ContainmentParticulars:
    """A product that contains applications.

    Attributes
    ----------
    name : str
        The product.
    since : int
        Year of its first release.
    container, host : str
        What it calls a container, and what is outside of all.
    facts : tuple of str
        What is particular about it.
    commands : tuple of Command
        By which it is administered, in the order of a container's life.
    isolates : tuple of str
        What a container has for itself.
    limits : tuple of Limit
        Of what it can be given so much.
    shares : tuple of str
        What it has together with the others.
    source : str
        Where that is documented.
    runs, not_here : str
        What of it runs here, and what does not.
    """

    name: str
    since: int
    container: str
    host: str
    facts: tuple[str, ...]
    commands: tuple[Command, ...]
    isolates: tuple[str, ...]
    limits: tuple[Limit, ...]
    shares: tuple[str, ...]
    source: str
    runs: str
    not_here: str


CREATE, START, STOP, DESTROY = (
    f"containerctl {operation}, by the host" for operation in ("CREATE", "START", "STOP", "DESTROY")
)
LIST = "ps in the global container; vmlab.containers"
RUNS = (
    "one kernel with containers: process tables, roots, addresses, host names, limits of pages, processes and processor time, "
    "all of them kept by the kernel; a host in ring 3 that makes, starts and stops them"
)

CONTAINMENT: dict[str, ContainmentParticulars] = {
    each.name: each
    for each in (
        ContainmentParticulars(
            name="Oracle Solaris Zones",
            since=2005,
            container="zone",
            host="global zone",
            facts=(
                "came with Solaris 10; up to 8192 non-global zones share one instance of the operating system with the global zone",
                "a zone is configured, installed and booted; its daemon zoneadmd sets up the virtual platform, and init is its first process",
                "no process of a zone sees or affects those of another, with superuser's rights neither",
                "branded zones run the programs of other releases; kernel zones (Solaris 11.2) have a kernel of their own and are virtual machines",
            ),
            commands=(
                Command("zonecfg(1M)", "configures a zone: its path, network, limits", CREATE),
                Command("zoneadm(1M) install", "puts the zone's software below its path", "the files below /zones in the image"),
                Command("zoneadm(1M) boot", "makes the virtual platform and starts init in it", START),
                Command("zlogin(1)", "logs in to a zone from the global zone"),
                Command("zoneadm(1M) list", "lists zones and their states", LIST),
                Command("zonestat(1)", "shows what zones use of their limits", "vmlab.containers"),
                Command("zoneadm(1M) halt", "ends all processes of a zone and takes its platform down", STOP),
                Command("zonecfg(1M) delete", "forgets the configuration", DESTROY),
            ),
            isolates=(
                "processes: a zone sees its own alone", "root directory: the root below the zone's path", "IP addresses: its own, or a stack of its own",
                "host name, users, and services of its own", "privileges: fewer than the global zone's root has",
            ),
            limits=(
                Limit("capped-cpu (zone.cpu-cap)", "processor time, in percent of one processor", "share"),
                Limit("cpu-shares (zone.cpu-shares)", "processor time where it is short, by the fair share scheduler"),
                Limit("dedicated-cpu, pool", "a set of processors of its own, by resource pools"),
                Limit("capped-memory", "physical memory, swap, locked memory", "page_limit"),
                Limit("max-processes (zone.max-processes)", "process table slots", "process_limit"),
                Limit("max-lwps (zone.max-lwps)", "lightweight processes"),
            ),
            shares=("the kernel, its version and its faults", "the system clock", "device drivers"),
            source=(
                "Price, Tucker, Solaris Zones, LISA 2004; Oracle, Introduction to Oracle Solaris Zones (E36848) and Creating and Using "
                "Oracle Solaris Zones (E37628): commands, zone-wide resource controls"
            ),
            runs=RUNS,
            not_here="users and privileges, resource pools and fair shares, brands, a network below the addresses, installation",
        ),
        ContainmentParticulars(
            name="BSD Jails",
            since=2000,
            container="jail",
            host="host",
            facts=(
                "came with FreeBSD 4.0: chroot, made to confine processes, addresses and the superuser, too",
                "root in a jail may do what stays in it: no raw devices, no kernel modules, no change of the network's configuration",
                "a process enters by jail(2), its children are in it from birth, and none ever gets out",
                "jails may hold jails (children.max), and with VNET have a network stack of their own",
            ),
            commands=(
                Command("jail.conf(5)", "holds the parameters: path, host.hostname, ip4.addr, exec.start", "the records config_1 and config_2"),
                Command("jail(8) -c", "creates a jail and starts its first command", f"{CREATE}, then {START}"),
                Command("jls(8)", "lists jails: jid, address, host name, path", LIST),
                Command("jexec(8)", "executes a command in a jail"),
                Command("rctl(8)", "adds rules that limit resources, as jail:web:pcpu:deny=50", "the limits of the configuration"),
                Command("jail(8) -r", "kills the jail's processes and removes it", f"{STOP}, then {DESTROY}"),
            ),
            isolates=(
                "processes: it sees and signals those of the jail alone", "root directory: path", "IP addresses: ip4.addr, ip6.addr", "host name",
                "the superuser's rights",
            ),
            limits=(
                Limit("pcpu", "processor time, in percent of one processor", "share"),
                Limit("memoryuse", "resident memory"),
                Limit("vmemoryuse", "address space", "page_limit"),
                Limit("maxproc", "processes", "process_limit"),
            ),
            shares=("the kernel, its version and its faults", "the system clock", "without VNET the network stack", "numbers of processes: a jail has no pids of its own"),
            source=(
                "Kamp, Watson, Jails: Confining the Omnipotent Root, SANE 2000; FreeBSD manual pages jail(8), jail.conf(5), jls(8), "
                "jexec(8), rctl(8) (since FreeBSD 9.0)"
            ),
            runs=RUNS,
            not_here="users and the superuser, jails in jails, VNET, a network below the addresses; pids of the host: here each container counts its own",
        ),
        ContainmentParticulars(
            name="IBM AIX WPAR",
            since=2007,
            container="WPAR",
            host="global environment",
            facts=(
                "came with AIX 6.1, for software alone, where LPARs divide the hardware; up to 8192 can be active",
                "a system WPAR has an init, users and file systems of its own; an application WPAR is around one program and ends with it",
                "AIX's Workload Manager keeps its limits; a WPAR can be checkpointed and moved to another host",
                "versioned WPARs give the environment of AIX 5.2 or 5.3 on the kernel of AIX 7",
            ),
            commands=(
                Command("mkwpar", "creates a system WPAR: its configuration, file systems and resource controls", CREATE),
                Command("startwpar", "starts it", START),
                Command("wparexec", "creates an application WPAR and executes a program in it", f"{CREATE}, then {START}"),
                Command("lswpar", "lists WPARs, their states and types", LIST),
                Command("clogin", "logs in to a WPAR from the global environment"),
                Command("chwpar", "changes its configuration and limits, while it runs too"),
                Command("stopwpar", "stops it", STOP),
                Command("rmwpar", "removes it", DESTROY),
            ),
            isolates=(
                "processes: it sees and signals its own alone", "root directory: /wpars/NAME", "IP addresses: its own", "host name, users, services",
                "interprocess communication",
            ),
            limits=(
                Limit("CPU (hard maximum)", "processor time, in percent", "share"),
                Limit("shares_CPU", "processor time where it is short, beside the other WPARs' shares"),
                Limit("memory (hard maximum)", "memory, in percent", "page_limit"),
                Limit("total processes", "processes", "process_limit"),
                Limit("total threads", "threads"),
            ),
            shares=("the kernel, its version and its faults", "the system clock", "/usr and /opt, read-only, unless it has copies"),
            source=(
                "IBM, AIX Version 7.2: IBM Workload Partitions for AIX; mkwpar Command; Resource controls; Processor use and memory use "
                "controls (IBM documentation)"
            ),
            runs=RUNS,
            not_here="users, application WPARs, checkpoints and mobility, shares beside caps, a network below the addresses",
        ),
    )
}  # fmt: skip
"""By the product's name."""
