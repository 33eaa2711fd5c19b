/* SPDX-License-Identifier: MIT */
/* A library with USDT probes: shop:sold in one place, shop:counted in three, shop:watched with a
 * semaphore. The notes are written here, so that no <sys/sdt.h> is needed.
 */
#define PROBE(name, what, semaphore)					\
	__asm__ volatile("990:	nop\n"					\
			 ".pushsection .note.stapsdt, \"?\", \"note\"\n" \
			 ".balign 4\n"					\
			 ".4byte 992f-991f, 994f-993f, 3\n"		\
			 "991: .asciz \"stapsdt\"\n"			\
			 "992: .balign 4\n"				\
			 "993: .8byte 990b\n"				\
			 ".8byte _.stapsdt.base\n"			\
			 ".8byte " semaphore "\n"			\
			 ".asciz \"shop\"\n"				\
			 ".asciz \"" name "\"\n"			\
			 ".asciz \"-4@%0\"\n"				\
			 "994: .balign 4\n"				\
			 ".popsection\n" :: "nor"(what))

__asm__(".pushsection .stapsdt.base, \"aG\", \"progbits\", .stapsdt.base, comdat\n"
	".weak _.stapsdt.base\n"
	".hidden _.stapsdt.base\n"
	"_.stapsdt.base: .space 1\n"
	".size _.stapsdt.base, 1\n"
	".popsection\n");

/* The kernel adds to it while a program is attached. */
unsigned short shop_watched_semaphore __attribute__((section(".probes"), used));

int sell(int what)
{
	PROBE("sold", what, "0");
	return what;
}

int count(int what)
{
	PROBE("counted", what, "0");
	PROBE("counted", what + 1, "0");
	PROBE("counted", what + 2, "0");
	return what;
}

int watch(int what)
{
	if (!shop_watched_semaphore)
		return 0;
	PROBE("watched", what, "shop_watched_semaphore");
	return 1;
}
