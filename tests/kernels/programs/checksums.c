/* CRC-32 with a table, SHA-256, and a random generator of 64 bits: long straight-line integer code. */
#include "console.h"

static uint32_t table[256];

static uint32_t crc32(const uint8_t *data, unsigned count)
{
    uint32_t crc = ~0u;

    while (count--)
        crc = table[(crc ^ *data++) & 0xFF] ^ crc >> 8;
    return ~crc;
}

static void make_table(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;

        for (int bit = 0; bit < 8; bit++)
            value = value >> 1 ^ (value & 1 ? 0xEDB88320 : 0);
        table[i] = value;
    }
}

static uint32_t rotate(uint32_t value, int count)
{
    return value >> count | value << (32 - count);
}

/* The fractions of the cube and the square roots of the first primes (FIPS 180-4). */
static const uint32_t constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};
static uint32_t state[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

static void sha256_block(const uint8_t *block)
{
    uint32_t w[64], v[8];

    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
               (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10);
    for (int i = 0; i < 8; i++)
        v[i] = state[i];
    for (int i = 0; i < 64; i++) {
        uint32_t one = v[7] + (rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25)) + ((v[4] & v[5]) ^ (~v[4] & v[6])) +
                       constants[i] + w[i];
        uint32_t two = (rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22)) + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));

        for (int j = 7; j > 0; j--)
            v[j] = v[j - 1];
        v[4] += one;
        v[0] = one + two;
    }
    for (int i = 0; i < 8; i++)
        state[i] += v[i];
}

void program(void)
{
    static uint8_t message[128];
    static const char text[] = "The quick brown fox jumps over the lazy dog";
    uint64_t random = 88172645463325252ull;

    make_table();
    print("%08x\n", crc32((const uint8_t *)text, sizeof text - 1));
    for (unsigned i = 0; i < sizeof text - 1; i++)
        message[i] = (uint8_t)text[i];
    message[sizeof text - 1] = 0x80;
    message[62] = (sizeof text - 1) * 8 >> 8;
    message[63] = (uint8_t)((sizeof text - 1) * 8);
    sha256_block(message);
    for (int i = 0; i < 8; i++)
        print("%08x", state[i]);
    print("\n");
    for (int i = 0; i < 100; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
    }
    print("%llu %016llx\n", (unsigned long long)random, (unsigned long long)(random * 6364136223846793005ull));
}
