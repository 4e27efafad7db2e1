package vmlab;

/** What the virtual machine's process can ask of the simulated computer. */
public final class Machine {
    private Machine() {
    }

    /** Reads a sector of 512 bytes from the disk into the front of a buffer; returns 0, or -1 where there is no such sector. */
    public static native int read(int sector, byte[] buffer);

    /** Sleeps until the next timer tick; returns how many there have been. */
    public static native int tick();

    /** Returns the number of this process: the cheapest system call. */
    public static native int process();
}
