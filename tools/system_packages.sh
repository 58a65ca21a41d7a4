#!/usr/bin/env bash
# Sees to the system packages that a set of make targets needs: system_packages.sh run|test|programs|bench.
#
# Probes for the thing itself and not for the package, so that any distribution will do.  What
# is missing is installed where we are root and apt is there; else it is named, and we fail.
set -u

have_command() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]; }
have_venv() { "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; }
have_python_headers() {
	local include
	include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))' 2>/dev/null) && [ -e "$include/Python.h" ]
}
have_service_names() { [ -e /etc/services ]; }
have_python_tests() { "$python" -c 'import test.test_socket' >/dev/null 2>&1; }
have_dpdk_headers() { pkg-config --exists libdpdk 2>/dev/null; }
have_frr() { [ -x /usr/lib/frr/bgpd ]; }
have_openbgpd() { [ -x /usr/sbin/bgpctl ]; }
have_libc_headers() { [ -e /usr/include/stdio.h ] && [ -e /usr/include/linux/if_packet.h ]; }
have_fuzzer_runtime() { clang -print-file-name= >/dev/null 2>&1 && ls "$(clang -print-resource-dir)"/lib/*/libclang_rt.fuzzer* >/dev/null 2>&1; }

# probe, then the Debian 12 package that satisfies it
run_needs='
have_command:python3 python3
have_venv python3-venv
have_python_headers python3-dev
have_command:gcc gcc
have_command:clang clang
have_libc_headers libc6-dev
have_command:ip iproute2
have_command:ps procps
'
test_needs='
have_fuzzer_runtime libclang-rt-14-dev
have_command:clang-format clang-format
have_command:tshark tshark
have_command:ping iputils-ping
have_command:traceroute traceroute
have_command:ethtool ethtool
have_command:iperf3 iperf3
have_command:tcpdump tcpdump
have_command:nft nftables
have_command:groff groff-base
have_command:curl curl
have_service_names netbase
have_command:nginx nginx-light
have_command:busybox busybox-static
have_command:radclient freeradius-utils
have_python_tests libpython3.11-testsuite
have_command:dnsmasq dnsmasq-base
have_command:bird bird2
have_frr frr
have_command:gobgpd gobgpd
have_openbgpd openbgpd
have_command:exabgp exabgp
'
programs_needs='
have_command:wget wget
have_command:redis-server redis-server
have_command:redis-benchmark redis-tools
have_command:sshd openssh-server
have_command:ssh openssh-client
have_command:dig bind9-dnsutils
have_command:gunicorn gunicorn
'
bench_needs='
have_command:dpdk-testpmd dpdk-dev
have_command:pkg-config pkg-config
have_dpdk_headers libdpdk-dev
'

missing() {
	local probe package
	while read -r probe package; do
		[ -n "$probe" ] || continue
		case $probe in
		have_command:*) have_command "${probe#have_command:}" || echo "$package" ;;
		*) $probe || echo "$package" ;;
		esac
	done
}

python=${PYTHON:-python3}
case ${1:-run} in
run) needs=$run_needs ;;
test) needs=$run_needs$test_needs ;;
programs) needs=$run_needs$test_needs$programs_needs ;;
bench) needs=$run_needs$test_needs$bench_needs ;;
*) echo "usage: $0 run|test|programs|bench" >&2; exit 2 ;;
esac

wanted=$(missing <<<"$needs")
[ -n "$wanted" ] || exit 0
if [ "$(id -u)" = 0 ] && have_command apt-get; then
	echo "==> system packages:" $wanted
	export DEBIAN_FRONTEND=noninteractive
	log=$(mktemp)
	# Of servers the programs are wanted, not the services: neither now nor after a reboot.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e "$policy" ]; then
		trap 'rm -f "$policy"' EXIT
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
	fi
	# shellcheck disable=SC2086 -- a list of packages
	if { apt-get update -qq && apt-get install -y -qq --no-install-recommends $wanted; } >"$log" 2>&1; then
		rm -f "$log"
	else
		tail -20 "$log" >&2
		rm -f "$log"
	fi
	if have_command systemctl; then
		for pair in nginx-light:nginx redis-server:redis-server openssh-server:ssh bird2:bird frr:frr gobgpd:gobgpd openbgpd:openbgpd exabgp:exabgp; do
			case " $(echo $wanted) " in *" ${pair%:*} "*) systemctl -q disable "${pair#*:}" >/dev/null 2>&1 ;; esac
		done
	fi
	wanted=$(missing <<<"$needs")
	[ -n "$wanted" ] || exit 0
fi
{
	echo "These packages (Debian's names) are missing:" $wanted
	echo "Install them, for example:  sudo apt-get install" $wanted
} >&2
exit 1
