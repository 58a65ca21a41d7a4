// Stores that other processes can see.
//
// Every store into a word that readers follow goes through PUBLISH, after what it leads to is
// complete.  A writer may die after any of them: each leaves a valid table.  A test build with
// ANABRANCH_CRASHPOINTS provides crashpoint() and dies at the N-th of them.
#ifndef BULK_PUBLISH_H
#define BULK_PUBLISH_H

#ifdef ANABRANCH_CRASHPOINTS
void crashpoint(const char *name);
#define CRASHPOINT(name) crashpoint(name)
#else
#define CRASHPOINT(name) ((void)0)
#endif

#define PUBLISH(word, value, name) \
	do { \
		__atomic_store_n((word), (value), __ATOMIC_RELEASE); \
		CRASHPOINT(name); \
	} while (0)

#endif
