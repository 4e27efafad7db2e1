import vmlab.Machine;

/** The workload that every kind of virtual machine does: disk, computing, memory, system calls, timer; one line. */
public class Workload {
    static final int SECTORS = 8;
    static final int LIMIT = 2000;
    static final int PAGES = 8;
    static final int PAGE = 4096;

    static int disk() {
        byte[] buffer = new byte[512];
        int h = 0;
        for (int sector = 0; sector < SECTORS; sector++) {
            if (Machine.read(sector, buffer) != 0) {
                throw new IllegalStateException("the disk cannot be read");
            }
            for (int i = 0; i < buffer.length; i++) {
                h = h * 31 + (buffer[i] & 0xff);
            }
        }
        return h;
    }

    static int primes() {
        byte[] composite = new byte[LIMIT];
        int primes = 0;
        for (int n = 2; n < LIMIT; n++) {
            if (composite[n] == 0) {
                primes++;
                for (int multiple = n * n; multiple < LIMIT; multiple += n) {
                    composite[multiple] = 1;
                }
            }
        }
        return primes;
    }

    static int pages() {
        byte[] memory = new byte[PAGES * PAGE];
        for (int i = 0; i < PAGES; i++) {
            memory[i * PAGE] = (byte) (i + 1);
        }
        int sum = 0;
        for (int i = 0; i < PAGES; i++) {
            sum += memory[i * PAGE];
        }
        return sum;
    }

    static int calls() {
        int sum = 0;
        for (int i = 0; i < 64; i++) {
            sum += Machine.process();
        }
        return sum;
    }

    static void sleep(int ticks) {
        int start = Machine.tick();
        while (Machine.tick() - start < ticks) {
            // the timer has not ticked often enough
        }
    }

    static String hexadecimal(int word) {
        String digits = Integer.toHexString(word);
        while (digits.length() < 8) {
            digits = "0" + digits;
        }
        return digits;
    }

    public static void main(String[] args) {
        int checksum = disk();
        int primes = primes();
        int pages = pages();
        calls();
        sleep(2);
        System.out.println("primes " + primes + " disk " + hexadecimal(checksum) + " pages " + pages);
    }
}
