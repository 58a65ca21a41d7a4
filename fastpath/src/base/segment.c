// Creation and attachment of shared segments.
//
// A segment never changes its size: the seals are what lets a reader trust fstat once
// and map without fear of SIGBUS.  Whoever attaches compares magic, ABI hash, kind and
// size; any difference is -EPROTO, because nothing else in the segment can be believed.
#define _GNU_SOURCE
#include "base/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "abi/core.h"
#include "abi/segment.h"
#include "abi_hash.h"

enum { SEGMENT_SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL };

uint64_t core_abi_hash(void)
{
	return ABI_HASH;
}

static int segment_fill(int fd, uint32_t kind, uint64_t size, uint32_t router_id, const char *router_name)
{
	if (ftruncate(fd, (off_t)size) < 0 || fcntl(fd, F_ADD_SEALS, SEGMENT_SEALS) < 0)
		return -errno;

	struct timespec created;
	clock_gettime(CLOCK_BOOTTIME, &created);
	struct segment_header header = {
		.abi_hash = ABI_HASH,
		.size = size,
		.kind = kind,
		.router_id = router_id,
		.created_ns = (uint64_t)created.tv_sec * 1000000000u + (uint64_t)created.tv_nsec,
	};
	strncpy(header.router_name, router_name, sizeof(header.router_name) - 1);
	// The magic goes last: a header without it was never finished.
	uint64_t magic = SEGMENT_MAGIC;
	if (pwrite(fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header) ||
	    pwrite(fd, &magic, sizeof(magic), offsetof(struct segment_header, magic)) != (ssize_t)sizeof(magic))
		return -EIO;
	return 0;
}

int segment_create(uint32_t kind, uint64_t size, uint32_t router_id, const char *router_name)
{
	if (size < sizeof(struct segment_header) || size > INT64_MAX || strlen(router_name) >= ROUTER_NAME_SIZE)
		return -EINVAL;
	int fd = memfd_create("anabranch", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	// A memfd is born 0777: a reader's process could open it again for writing.
	int error = fchmod(fd, S_IRUSR | S_IWUSR) < 0 ? -errno : segment_fill(fd, kind, size, router_id, router_name);
	if (error < 0) {
		close(fd);
		return error;
	}
	return fd;
}

int segment_check(int fd, uint32_t kind)
{
	struct stat status;
	struct segment_header header;
	if (fstat(fd, &status) < 0)
		return -errno;
	int seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || (seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW))
		return -EPROTO;
	if (pread(fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header))
		return -EPROTO;
	if (header.magic != SEGMENT_MAGIC || header.abi_hash != ABI_HASH || header.kind != kind ||
	    header.size != (uint64_t)status.st_size)
		return -EPROTO;
	return 0;
}

int segment_map(int fd, uint32_t kind, size_t least, bool writable, void **base, size_t *size)
{
	int error = segment_check(fd, kind);
	if (error < 0)
		return error;
	struct stat status;
	if (fstat(fd, &status) < 0)
		return -errno;
	if ((uint64_t)status.st_size < least)
		return -EPROTO;
	size_t bytes = (size_t)status.st_size;
	void *mapped = mmap(NULL, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
	if (mapped == MAP_FAILED)
		return -errno;
	*base = mapped;
	*size = bytes;
	return 0;
}
