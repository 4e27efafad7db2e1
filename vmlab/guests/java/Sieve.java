/** Counts primes by the sieve of Eratosthenes. */
public class Sieve {
    static int count(int limit) {
        boolean[] composite = new boolean[limit];
        int primes = 0;
        for (int n = 2; n < limit; n++) {
            if (composite[n]) {
                continue;
            }
            primes++;
            for (int multiple = n + n; multiple < limit; multiple += n) {
                composite[multiple] = true;
            }
        }
        return primes;
    }

    public static void main(String[] args) {
        for (int limit = 10; limit <= 10000; limit *= 10) {
            System.out.println("primes below " + limit + ": " + count(limit));
        }
    }
}
