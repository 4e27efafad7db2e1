/* 64-bit division, which gcc does by functions of libgcc in 32-bit code, 64-bit multiplication and shifts. */
#include "console.h"

static volatile uint64_t numbers[] = {
    0, 1, 10, 0xFFFFFFFF, 0x100000000, 0x100000001, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0x8000000000000001,
    0xFFFFFFFFFFFFFFFF, 0x123456789ABCDEF0, 999999999999999999,
};

#define COUNT (sizeof numbers / sizeof numbers[0])

void program(void)
{
    for (unsigned i = 0; i < COUNT; i++) {
        uint64_t a = numbers[i], hash = 0;

        for (unsigned j = 0; j < COUNT; j++) {
            uint64_t b = numbers[j];

            hash = hash * 1099511628211u + (a ^ b) + (a < b) + (uint64_t)((int64_t)a < (int64_t)b) * 2;
            if (!b)
                continue;
            hash += a / b * 3 + a % b;
            if (!(a == 0x8000000000000000 && b == 0xFFFFFFFFFFFFFFFF))
                hash ^= (uint64_t)((int64_t)a / (int64_t)b) * 7 + (uint64_t)((int64_t)a % (int64_t)b);
        }
        print("%llu %lld %016llx %016llx\n", (unsigned long long)a, (long long)a, (unsigned long long)hash,
              (unsigned long long)(a * a + 12345));
        for (volatile unsigned shift = 0; shift < 64; shift += 9)
            hash = (hash ^ a << shift) * 3 + (a >> shift) + (uint64_t)((int64_t)a >> shift) * 5;
        print("%016llx\n", (unsigned long long)hash);
    }
}
