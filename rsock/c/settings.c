// What the environment and rsock_init(3) say: where the routers are, the default one, time-outs, tracing.
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TIMEOUT_MS = 5000, TIMEOUT_MOST_MS = 3600 * 1000, TRACE_LINE = 256 };

static struct settings settings;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void read_run_dir(const char *given)
{
	const char *chosen = given != NULL ? given : getenv("ANABRANCH_RUN_DIR");
	if (chosen == NULL || chosen[0] == '\0' || strlen(chosen) >= sizeof(settings.run_dir))
		chosen = "/run/anabranch";
	strcpy(settings.run_dir, chosen);
}

static int take_default_vr(const char *vr)
{
	if (vr == NULL || vr[0] == '\0' || strcmp(vr, RSOCK_KERNEL) == 0)
		settings.default_vr[0] = '\0';
	else if (name_valid(vr))
		strcpy(settings.default_vr, vr);
	else
		return -ENODEV;
	return 0;
}

static void read_environment(void)
{
	const char *timeout = getenv("RSOCK_TIMEOUT");
	const char *tracing = getenv("RSOCK_TRACE");
	double seconds = timeout == NULL ? 0 : strtod(timeout, NULL);

	read_run_dir(NULL);
	settings.timeout_ms = TIMEOUT_MS;
	if (seconds > 0 && seconds <= TIMEOUT_MOST_MS / 1000)
		settings.timeout_ms = seconds < 0.001 ? 1 : (int)(seconds * 1000);
	settings.trace = tracing == NULL ? 0 : atoi(tracing);
	const char *vr = getenv("RSOCK_VR");
	if (take_default_vr(vr) < 0) {
		// Sockets of a router that cannot be must not end up in the kernel.
		settings.default_vr[0] = '?';
		settings.default_vr[1] = '\0';
		trace(0, "RSOCK_VR=%s is no router's name", vr);
	}
}

const struct settings *settings_get(void)
{
	(void)pthread_once(&once, read_environment);
	return &settings;
}

int settings_init(const struct rsock_config *config)
{
	(void)settings_get();
	if (config == NULL)
		return 0;
	if (config->size < sizeof(*config) || config->timeout_ms < 0)
		return -EINVAL;
	if (config->run_dir != NULL) {
		if (strlen(config->run_dir) >= sizeof(settings.run_dir))
			return -ENAMETOOLONG;
		read_run_dir(config->run_dir);
	}
	if (config->timeout_ms > 0)
		settings.timeout_ms = config->timeout_ms;
	return config->default_vr == NULL ? 0 : take_default_vr(config->default_vr);
}

int settings_default_vr(const char *vr)
{
	(void)settings_get();
	return take_default_vr(vr);
}

void trace(int level, const char *format, ...)
{
	char line[TRACE_LINE];
	va_list arguments;
	if (level > settings.trace)
		return;
	int length = snprintf(line, sizeof(line), "rsock[%d]: ", (int)getpid());
	va_start(arguments, format);
	length += vsnprintf(line + length, sizeof(line) - (size_t)length, format, arguments);
	va_end(arguments);
	if (length > (int)sizeof(line) - 2)
		length = (int)sizeof(line) - 2;
	line[length] = '\n';
	// Not stdio: this may run in a signal handler, and a line must not be torn apart.
	(void)!write(STDERR_FILENO, line, (size_t)length + 1);
}
